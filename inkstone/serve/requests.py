"""What may be asked of the server, field by field. What is not here is refused by name, never ignored.

Names and limits are the OpenAI API's; `top_k`, `min_p`, `repetition_penalty`, `min_tokens`, `stop_token_ids`,
`ignore_eos` and `continue_final_message` are those of other servers of the field. A null is a field that is left out:
clients send all that they know of.
"""

from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError, WrapValidator, field_validator, model_validator

from inkstone.serve.guard import Body

MAX_CHOICES = 16
MAX_STOPS = 16
MAX_BIASES = 1024

Stop = Annotated[str, Field(min_length=1, max_length=256)]
Label = Annotated[str, Field(max_length=1024)]


def _one_of(kinds: str) -> WrapValidator:
    """What a field may be, in one sentence instead of one for each kind."""

    def check(value: object, read: Any) -> object:
        try:
            return read(value)
        except ValidationError as error:
            raise ValueError(f"must be {kinds}") from error

    return WrapValidator(check)


Texts = Annotated[
    str | list[int] | list[str] | list[list[int]],
    _one_of("a text, a list of token ids, or a list of texts or of such lists"),
]


class Given(Body):
    """A request, or an object in one."""

    @model_validator(mode="before")
    @classmethod
    def _null_is_left_out(cls, told: object) -> object:
        return {name: value for name, value in told.items() if value is not None} if isinstance(told, dict) else told


class StreamOptions(Given):
    """What a stream says besides its text."""

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class JsonSchema(Given):
    """A schema; all but it is for people."""

    schema_: dict[str, Any] = Field(alias="schema")
    name: str = ""
    description: str = ""
    strict: bool = True


class ResponseFormat(Given):
    """`text`, `json_object`, or `json_schema` with {"schema": ...}."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> "ResponseFormat":
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError('the type json_schema, and no other, needs json_schema: {"name": ..., "schema": {...}}')
        return self

    @property
    def schema_(self) -> dict[str, Any] | None:
        """The schema that an answer must satisfy; None: any text."""
        return self.json_schema.schema_ if self.json_schema else {"type": "object"} if self.type != "text" else None


class Asked(Given):
    """What both kinds of request share."""

    model_config = ConfigDict(allow_inf_nan=False)

    model: str
    n: int = Field(1, ge=1, le=MAX_CHOICES)
    stream: bool = False
    stream_options: StreamOptions | None = None
    stop: list[Stop] = Field([], max_length=MAX_STOPS)
    stop_token_ids: list[int] = Field([], max_length=64)
    max_tokens: int | None = Field(None, ge=0)
    min_tokens: int = Field(0, ge=0)
    temperature: float | None = Field(None, ge=0, le=100)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=10**7)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=100)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    logit_bias: dict[int, Annotated[float, Field(ge=-100, le=100)]] = Field({}, max_length=MAX_BIASES)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    ignore_eos: bool = False
    response_format: ResponseFormat | None = None
    # Labels for a provider's records, on which no answer depends; and what is asked for by asking for nothing special.
    user: Label = ""
    safety_identifier: Label = ""
    prompt_cache_key: Label = ""
    metadata: dict[str, Label] = Field({}, max_length=16)
    store: Literal[False] = False
    service_tier: Literal["auto", "default"] = "auto"

    @field_validator("stop", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _options_go_together(self) -> "Asked":
        if self.stream_options and not self.stream:
            raise ValueError("stream_options is for streams: set stream to true, or leave it out")
        if self.ignore_eos and self.response_format and self.response_format.type != "text":
            raise ValueError("with ignore_eos an answer has no end, so response_format cannot be met: leave one out")
        return self

    def stop_ids(self, own: Collection[int]) -> set[int]:
        """What ends an answer, of a model whose `own` ids do."""
        return {*self.stop_token_ids, *(() if self.ignore_eos else own)}


class NamedFunction(Given):
    """Which one."""

    name: str


class NamedTool(Given):
    """`tool_choice` of one function."""

    type: Literal["function"]
    function: NamedFunction


class ChatRequest(Asked):
    """POST /v1/chat/completions."""

    messages: list[dict[str, Any]] = Field(min_length=1, max_length=4096)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: list[dict[str, Any]] = Field([], max_length=128)
    tool_choice: Annotated[
        Literal["auto", "none", "required"] | NamedTool,
        _one_of('auto, none, required, or {"type": "function", "function": {"name": ...}}'),
    ] = "auto"
    parallel_tool_calls: bool = True
    modalities: list[Literal["text"]] = Field([])
    reasoning_effort: Literal["none"] = "none"
    continue_final_message: bool = False
    drop_oldest: bool = False
    """A conversation that is too long loses its oldest rounds, as in `inkstone chat`, instead of being refused."""

    @model_validator(mode="after")
    def _fits_together(self) -> "ChatRequest":
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        if self.tool_choice not in ("auto", "none") and not self.tools:
            raise ValueError("tool_choice needs tools")
        if len(self._functions()) < len(self.tools):
            raise ValueError('each of tools must be {"type": "function", "function": {...}} with a name of its own')
        if self.forced and self.response_format and self.response_format.type != "text":
            raise ValueError("tool_choice forces a call, so there is no answer for response_format: leave one out")
        if self.forced and self.ignore_eos:
            raise ValueError("tool_choice forces a call, which ends: leave ignore_eos out")
        return self

    @property
    def forced(self) -> dict[str, dict[str, Any]]:
        """Functions of which the answer must call one, with their arguments' schemas; empty: none must be called."""
        functions = self._functions()
        if not isinstance(self.tool_choice, NamedTool):
            return functions if self.tool_choice == "required" else {}
        name = self.tool_choice.function.name
        if name not in functions:
            raise ValueError(f'tool_choice names "{name[:100]}", which is none of tools')
        return {name: functions[name]}

    def _functions(self) -> dict[str, dict[str, Any]]:
        """The arguments' schemas of those tools that are functions."""
        functions: dict[str, dict[str, Any]] = {}
        for function in (tool.get("function") for tool in self.tools if tool.get("type", "function") == "function"):
            name, schema = (function.get("name"), function.get("parameters")) if isinstance(function, dict) else (0, 0)
            if name and isinstance(name, str) and isinstance(schema, dict | None):
                functions[name] = {"type": "object"} if schema is None else schema
        return functions

    @property
    def longest(self) -> int | None:
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens


class CompletionRequest(Asked):
    """POST /v1/completions."""

    prompt: Texts
    echo: bool = False
    logprobs: int | None = Field(None, ge=0, le=20)
    suffix: Literal[""] = ""
    best_of: int | None = Field(None, ge=1, le=1)

    @property
    def longest(self) -> int | None:
        return 16 if self.max_tokens is None else self.max_tokens


class TokenizeRequest(Given):
    """POST /tokenize."""

    model: str
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = Field(None, min_length=1, max_length=4096)
    add_special_tokens: bool = True
    return_token_strs: bool = False
    drop_oldest: bool = False

    @model_validator(mode="after")
    def _one_of_both(self) -> "TokenizeRequest":
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give prompt or messages")
        return self


class DetokenizeRequest(Given):
    """POST /detokenize."""

    model: str
    tokens: list[int] = Field(max_length=10**6)


class EmbeddingRequest(Given):
    """POST /v1/embeddings."""

    model: str
    input: Texts
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: Label = ""
