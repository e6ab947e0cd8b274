"""The server: models behind the OpenAI API.

`runner` drives an engine in a thread, `models` knows which models there are and opens them, `adapters` which adapters
they have, `requests` says what may be asked, `chat` and `completions` turn requests into tokens and tokens into
answers, `guard` knows keys and limits, `app` is the page of routes.
"""
