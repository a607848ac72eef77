"""The page to talk to the models: `videogpt-plus web`.

    settings   what may be chosen: models, and what the dials of each can be set to
    clips      clips to choose from and what may be uploaded; a clip as a model sees it
    drawing    frames, the pooled grid over one of them, and costs, as HTML that names no other file
    apart      a file is read in a process that ends in time
    uploads    where visitors' files lie, and for how long
    faults     what is said where something goes wrong
    talk       one visitor's conversations; what the page wants of a model
    parts      the parts of one side
    models     the models, loaded when they are first asked
    room       a limit that visitors share
    page       all of it as a Gradio app
    guard      which requests reach it
    server     that app on a port; its browser is told to ask no other host

`models` alone loads and asks models.
"""
