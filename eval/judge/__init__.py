"""A judge reads answers in free words and gives each a score: any OpenAI-compatible endpoint, or facts looked up.

prompts     what a judge is told, in our words (prompts.toml) or in the official scripts'
parser      a reply in whatever shape -> a score, or why there is none
settings    who judges, where, and what that may take
transport   one POST to the server, bounded as a whole
options     temperature, token limit, format: what goes with a prompt, and what a server does not take
replies     what a server's answer holds: words, why they ended, tokens, an error
masking     the key is hidden in whatever a server says
pace        pauses, calls a minute, a limit of money
endpoint    one judgement over the network, made of the five above
lexical     the offline judge of the toy
header      who judges and how, as it stands beside a ledger
ledger      what is to be judged, and judged.jsonl: nothing is paid twice
scoring     judged.jsonl -> scores.json, and which scores may stand in one column
"""
