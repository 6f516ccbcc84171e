"""Engine `openai_endpoint`: any server with OpenAI's API, as its users see it.

In reading order: `options` and `key`; `address`, `web` and `probe`, what the server is asked once; `render` and
`text`, what is sent; `process`, `client`, `loop`, `connection`, `watch`, `ahead` and `reporter`, the process that
sends and stamps; `news`, what it tells; `reader`, `answers`, `chunks`, `sse`, `shape`, `tokens` and `outcome`, what is
made of that; `metrics_page`, the server's own counters; `scoring` and `logprobs`, how probable it holds tokens;
`engine`, all of it behind the protocol.
"""
