"""A judge reads answers in free words and gives each a score: any OpenAI-compatible endpoint, or facts looked up.

prompts     what a judge is told, in our words (prompts.toml) or in the official scripts'
parser      a reply in whatever shape -> a score, or why there is none
endpoint    one judgement over the network: retries, pace, budget
lexical     the offline judge of the toy
ledger      what is to be judged, and judged.jsonl: nothing is paid twice
scoring     judged.jsonl -> scores.json, and which scores may stand in one column
"""
