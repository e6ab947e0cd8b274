"""What may be asked of the server, field by field. What is not here is refused by name, never ignored.

Names and limits are the OpenAI API's; `top_k`, `min_p`, `repetition_penalty`, `min_tokens`, `stop_token_ids` and
`continue_final_message` are those of other servers of the field.
"""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from inkstone.serve.guard import Body

MAX_CHOICES = 16
MAX_STOPS = 16
MAX_BIASES = 1024

Stop = Annotated[str, Field(min_length=1, max_length=256)]


class StreamOptions(Body):
    """What a stream says besides its text."""

    include_usage: bool = False


class ResponseFormat(Body):
    """`text`, `json_object`, or `json_schema` with {"schema": ...}."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: dict[str, Any] | None = None

    @property
    def schema_(self) -> dict[str, Any] | None:
        """The schema that an answer must satisfy; None: any text."""
        if self.type == "json_object":
            return {"type": "object"}
        return (self.json_schema or {}).get("schema", {}) if self.type == "json_schema" else None


class Asked(Body):
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
    response_format: ResponseFormat | None = None
    user: str | None = Field(None, max_length=1024)

    @field_validator("stop", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: object) -> object:
        return [] if value is None else [value] if isinstance(value, str) else value

    @field_validator("logit_bias", "presence_penalty", "frequency_penalty", "n", "stream", mode="before")
    @classmethod
    def _null_is_the_default(cls, value: object, info: Any) -> object:
        return cls.model_fields[info.field_name].default if value is None else value

    @model_validator(mode="after")
    def _options_of_a_stream(self) -> "Asked":
        if self.stream_options and not self.stream:
            raise ValueError("stream_options is for streams: set stream to true, or leave it out")
        return self


class NamedFunction(Body):
    """Which one."""

    name: str


class NamedTool(Body):
    """`tool_choice` of one function."""

    type: Literal["function"]
    function: NamedFunction


class ChatRequest(Asked):
    """POST /v1/chat/completions."""

    messages: list[dict[str, Any]] = Field(min_length=1, max_length=4096)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: list[dict[str, Any]] = Field([], max_length=128)
    tool_choice: Literal["auto", "none", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    continue_final_message: bool = False
    drop_oldest: bool = False
    """A conversation that is too long loses its oldest rounds, as in `inkstone chat`, instead of being refused."""

    @field_validator("tools", "logprobs", mode="before")
    @classmethod
    def _null_too(cls, value: object, info: Any) -> object:
        return cls.model_fields[info.field_name].default if value is None else value

    @model_validator(mode="after")
    def _fits_together(self) -> "ChatRequest":
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        if self.tool_choice is not None and not self.tools:
            raise ValueError("tool_choice needs tools")
        if self.forced and self.response_format and self.response_format.type != "text":
            raise ValueError("tool_choice forces a call, so there is no answer for response_format: leave one out")
        return self

    @property
    def forced(self) -> dict[str, dict[str, Any]]:
        """Functions of which the answer must call one, with their arguments' schemas; empty: none must be called."""
        if self.tool_choice in (None, "auto", "none"):
            return {}
        functions: dict[str, dict[str, Any]] = {}
        for function in (tool.get("function") for tool in self.tools):
            name, schema = (function.get("name"), function.get("parameters")) if isinstance(function, dict) else (0, 0)
            if isinstance(name, str) and isinstance(schema, dict | None):
                functions[name] = {"type": "object"} if schema is None else schema
        if len(functions) < len(self.tools):
            raise ValueError("a call is forced, so each of tools needs a function with a name of its own")
        if not isinstance(self.tool_choice, NamedTool):
            return functions
        name = self.tool_choice.function.name
        if name not in functions:
            raise ValueError(f'tool_choice names "{name[:100]}", which is none of tools')
        return {name: functions[name]}

    @property
    def longest(self) -> int | None:
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens


class CompletionRequest(Asked):
    """POST /v1/completions."""

    prompt: str | list[int] | list[str] | list[list[int]]
    echo: bool = False
    logprobs: int | None = Field(None, ge=0, le=20)
    suffix: None = None
    best_of: int | None = Field(None, ge=1, le=1)

    @property
    def longest(self) -> int | None:
        return 16 if self.max_tokens is None else self.max_tokens


class TokenizeRequest(Body):
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


class DetokenizeRequest(Body):
    """POST /detokenize."""

    model: str
    tokens: list[int] = Field(max_length=10**6)


class EmbeddingRequest(Body):
    """POST /v1/embeddings."""

    model: str
    input: str | list[str] | list[int] | list[list[int]]
    encoding_format: Literal["float", "base64"] = "float"
    user: str | None = Field(None, max_length=1024)
