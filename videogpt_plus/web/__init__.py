"""The page to talk to the models: `videogpt-plus web`.

    settings   what may be chosen: models, and what the dials of each can be set to
    clips      clips to choose from and what may be uploaded; a clip as a model sees it
    drawing    frames, the pooled grid over one of them, and costs, as HTML that names no other file
    talk       one visitor's conversations; what the page wants of a model
    page       all of it as a Gradio app
    server     that app on a port; its browser is told to ask no other host

Models come in through `talk.Models`: nothing here loads or asks one.
"""
