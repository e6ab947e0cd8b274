"""A model behind OpenAI's API, as a model under test or as a judge: our own server, vLLM, or anybody's.

    model = Endpoint("http://localhost:8000/v1")       # --model-name where it serves several; key: OPENAI_API_KEY

Texts come from /chat/completions (or /completions for plain prompts); choices are scored through /completions with
`echo`, which servers of base models have. Time-outs, refused connections and 5xx are tried again, with a pause that
doubles; what is wrong with the request itself is said at once.
"""

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, TypeVar

from inkstone.chat import Message
from inkstone.errors import InkstoneError, InputError
from inkstone.evaluate.protocols.protocol import Ask, Protocol
from inkstone.evaluate.run.model import Said, Writing, cut_at_stop
from inkstone.storage import fingerprint

Value = TypeVar("Value")
_STOPS_SENT = 4  # OpenAI takes no more; the rest are looked for here


class Endpoint:
    """`parallel` requests at once; `tries` of each."""

    def __init__(
        self,
        url: str,
        name: str = "",
        timeout_s: float = 300.0,
        tries: int = 4,
        pause_s: float = 1.0,
        parallel: int = 8,
    ) -> None:
        self.url, self.timeout_s, self.tries, self.pause_s = url.rstrip("/"), timeout_s, tries, pause_s
        self.parallel = parallel
        self.name = name or self._first_model()

    @property
    def fingerprint(self) -> str:
        return fingerprint([self.url, self.name])[:12]

    def answer(self, protocol: Protocol, asks: Sequence[Ask], missing: Sequence[int]) -> Iterator[tuple[int, Said]]:
        ask = self._written if protocol.score == "write" else self._scored
        yield from self._each(missing, lambda index: ask(protocol, asks[index]))

    def talk(self, conversations: Sequence[Sequence[Message]], writing: Sequence[Writing]) -> Iterator[tuple[int, str]]:
        yield from self._each(
            range(len(conversations)), lambda index: self._chat(conversations[index], writing[index], 0)
        )

    def _each(self, indices: Sequence[int], call: Callable[[int], Value]) -> Iterator[tuple[int, Value]]:
        with ThreadPoolExecutor(self.parallel) as pool:
            running = {pool.submit(call, index): index for index in indices}
            try:
                for done in as_completed(running):
                    yield running[done], done.result()
            finally:
                pool.shutdown(cancel_futures=True)

    def _written(self, protocol: Protocol, ask: Ask) -> Said:
        how = Writing(protocol.max_new_tokens, protocol.stops, "", protocol.temperature, protocol.samples)
        texts = []
        for sample in range(how.samples):
            if protocol.turns:
                system = [Message("system", ask.system)] if ask.system else []
                rounds = [Message(role, text) for role, text in ask.rounds(ask.examples)]
                texts.append(self._chat([*system, *rounds], how, sample))
            else:
                found = self._post("/completions", {"prompt": ask.prompt(), **_options(how, sample)})
                texts.append(cut_at_stop(_pick(found, "text"), how.stops)[0])
        return Said(texts=tuple(texts))

    def _chat(self, messages: Sequence[Message], how: Writing, sample: int) -> str:
        sent = [{"role": one.role, "content": one.content} for one in messages]
        found = self._post("/chat/completions", {"messages": sent, **_options(how, sample)})
        return cut_at_stop(_pick(found, "message", "content") or "", how.stops)[0]

    def _scored(self, protocol: Protocol, ask: Ask) -> Said:
        """Cut by counting: the tokens of prompt and ending beyond those of the prompt alone, as `Protocol.cut` says.

        Places in the text (`text_offset`) are no help: servers count a begin token's name, and characters of several
        tokens, each in its own way.
        """
        values, greedy = [], []
        for prompt in ask.contexts or (ask.prompt(),):
            alone = self._echo(prompt.rstrip(" ") if protocol.cut == "length" else prompt)
            for ending in ask.endings:
                both = self._echo(prompt + ending)
                pairs = enumerate(zip(alone, both, strict=False))
                same = next((at for at, (one, other) in pairs if one[0] != other[0]), min(len(alone), len(both)))
                start = len(alone) if protocol.cut == "length" and len(both) > len(alone) else same
                chosen = both[1 if protocol.score == "whole" else max(start, 1) :]
                total = sum(value for _, value, _ in chosen)
                values.append(total / len(both) if protocol.score == "whole" else total)
                greedy.append(bool(chosen) and all(value >= best for _, value, best in chosen))
        return Said(tuple(values), tuple(greedy))

    def _echo(self, text: str) -> list[tuple[str, float, float]]:
        """(token, its log-probability, the best one's) of every token of a text."""
        options = {"prompt": text, "max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": True}
        found = self._post("/completions", options)
        first = _pick(found)
        try:
            told = first["logprobs"]
            rows = list(zip(told["tokens"], told["token_logprobs"], told["top_logprobs"], strict=True))
            rows = rows[: found["usage"]["prompt_tokens"]]
            return [(token, value or 0.0, max(best.values()) if best else 0.0) for token, value, best in rows]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{self.url} does not give the log-probabilities of a prompt (echo): ask it with protocols that write, "
                "e.g. cmmlu@opencompass"
            ) from error

    def _first_model(self) -> str:
        try:
            return str(self._request("/models", None)["data"][0]["id"])
        except (KeyError, IndexError, TypeError) as error:
            raise InputError(f"{self.url}/models lists no model: give its name with --model-name") from error

    def _post(self, path: str, values: dict[str, Any]) -> dict[str, Any]:
        return self._request(path, {"model": self.name, **values})

    def _request(self, path: str, values: dict[str, Any] | None) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get("OPENAI_API_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        data = None if values is None else json.dumps(values).encode()
        problem = ""
        for number in range(self.tries):
            time.sleep(self.pause_s * 2 ** (number - 1) if number else 0)
            try:
                asked = urllib.request.Request(self.url + path, data, headers)
                with urllib.request.urlopen(asked, timeout=self.timeout_s) as reply:
                    found = json.loads(reply.read())
                if isinstance(found, dict):
                    return found
                problem = "its answer is no JSON object"
            except urllib.error.HTTPError as error:
                said = error.read()[:300].decode(errors="replace")
                if error.code < 500 and error.code != 429:
                    raise InputError(f"{self.url}{path} refuses the request ({error.code}): {said}") from error
                problem = f"it answered {error.code}: {said}"
            except (OSError, ValueError, http.client.HTTPException) as error:  # refused, timed out, cut off; or no JSON
                problem = f"{type(error).__name__}: {error}"
        raise InkstoneError(
            f"{self.url}{path} failed {self.tries} times ({problem}); what was answered is kept, and the same command "
            "continues"
        )


def _options(how: Writing, sample: int) -> dict[str, Any]:
    values: dict[str, Any] = {"max_tokens": how.max_new_tokens, "temperature": how.temperature}
    if how.stops:
        values["stop"] = list(how.stops[:_STOPS_SENT])
    return values | ({"seed": how.seed + sample} if how.temperature else {})


def _pick(found: dict[str, Any], *names: str) -> Any:
    """A field of the first choice. Raises InkstoneError where the answer is not of that shape."""
    try:
        value: Any = found["choices"][0]
        for name in names:
            value = value[name]
        return value
    except (KeyError, IndexError, TypeError) as error:
        raise InkstoneError(f"an endpoint answered without choices[0].{'.'.join(names)}: {str(found)[:200]}") from error
