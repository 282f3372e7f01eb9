"""What a policy file may contain: the models behind its JSON, and a JSON Schema of it for editors.

Models are frozen, unknown keys are refused, and nothing is converted: `1` is not `true`, `"60"` is
not 60. Paths and hosts are kept as written (`paths` and `hosts` give them their meaning) once they
have been found usable. `parse.parse_policy` is the way in from bytes; it names the place of an
error.

What a rule says of an action: `deny` and `ask` say it with `true`, and `false` there says nothing.
`allow` says it with `true`; `false` there withholds the action where the rule matches, as a default
of `false` does everywhere: another rule of the same file may allow it, and nothing else can.
Within one of the three, what is said of `read` is said of `exec`, and of `write` of `delete`,
unless those are named too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    model_validator,
)

from policies.hosts import host_pattern
from policies.paths import Glob, canonical, matcher
from policies.values import (
    MisplacedError,
    Texts,
    check_date,
    check_id,
    check_label,
    check_method,
    check_profile,
    check_reason,
    check_text,
)

Action = Literal["list", "read", "write", "delete", "exec", "network"]
ACTIONS: Final[tuple[Action, ...]] = get_args(Action)
FILE_ACTIONS: Final[tuple[Action, ...]] = tuple(a for a in ACTIONS if a != "network")
FOLLOWS: Final[dict[Action, Action]] = {"exec": "read", "delete": "write"}
"""An action that a rule does not name takes what the rule says of this one."""

MAX_SECONDS: Final = 100 * 366 * 86_400
"""Longest duration of a policy, in seconds: a century, so that no sum of times overflows."""
MAX_RULES: Final = 10_000


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    def stated(self) -> Iterator[str]:
        """The names of the fields that were given a value."""
        return (name for name in type(self).model_fields if getattr(self, name) is not None)


class Actions(_Part):
    """What one of `allow`, `ask` and `deny` says; None is silence."""

    list: StrictBool | None = Field(default=None, description="See the name, size and times.")
    read: StrictBool | None = Field(
        default=None, description="Read the contents; `exec` follows it."
    )
    write: StrictBool | None = Field(
        default=None, description="Stage a new or changed file; `delete` follows it."
    )
    delete: StrictBool | None = Field(
        default=None, description="Stage a removal or the old side of a rename."
    )
    exec: StrictBool | None = Field(default=None, description="Run it as a program.")
    network: StrictBool | None = Field(default=None, description="Reach the host.")

    def says(self, action: Action) -> bool | None:
        """The value for `action`, or for the one it follows."""
        value: bool | None = getattr(self, action)
        if value is None and action in FOLLOWS:
            value = getattr(self, FOLLOWS[action])
        return value


class Match(_Part):
    """Where a rule holds: every key given must hold, and one value of a key is enough."""

    path_prefix: Annotated[tuple[str, ...] | None, Texts(canonical)] = Field(
        default=None,
        alias="pathPrefix",
        description="Host paths, each with all that lies below it.",
    )
    path_glob: Annotated[tuple[str, ...] | None, Texts(Glob.parse)] = Field(
        default=None,
        alias="pathGlob",
        description="Globs over whole host paths: * and ? do not cross /, ** does.",
    )
    host: Annotated[tuple[str, ...] | None, Texts(host_pattern)] = Field(
        default=None, description="Hosts without a port, or *.example.com for all below one."
    )
    method: Annotated[tuple[str, ...] | None, Texts(check_method)] = Field(
        default=None, description="HTTP methods in capitals."
    )
    subject: Annotated[tuple[str, ...] | None, Texts(check_text)] = Field(
        default=None, description="Subjects, exactly as grants name them."
    )
    exe: Annotated[tuple[str, ...] | None, Texts(Glob.parse)] = Field(
        default=None, description="Globs over the path of the calling program; can only tighten."
    )
    sensitivity: Annotated[tuple[str, ...] | None, Texts(check_label)] = Field(
        default=None, description="Classes of what was found in the contents, as in pii."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not any(self.stated()):
            raise ValueError("matches everything by saying nothing; give at least one key")
        if self.about_files and self.about_network:
            raise ValueError("can never hold: a path is of a file, a host or method of the network")
        for key, globs in (("pathGlob", self.path_glob), ("exe", self.exe)):
            try:
                matcher([Glob.parse(glob).pattern(below=True) for glob in globs or ()])
            except ValueError as error:
                raise MisplacedError(key, str(error)) from error
        return self

    @property
    def about_files(self) -> bool:
        """Whether only accesses to files can match."""
        return self.path_prefix is not None or self.path_glob is not None

    @property
    def about_network(self) -> bool:
        """Whether only network accesses can match."""
        return self.host is not None or self.method is not None


class Rule(_Part):
    """One rule: where it holds, and what it says there."""

    id: Annotated[StrictStr, AfterValidator(check_id)]
    match: Match
    allow: Actions | None = None
    ask: Actions | None = None
    deny: Actions | None = None
    hide: StrictBool | None = Field(
        default=None,
        description="The names vanish, with all below them; every file action is denied.",
    )
    redact: Annotated[StrictStr, AfterValidator(check_profile)] | None = Field(
        default=None, description="A redaction profile added to the grant's own, as in secrets+pii."
    )
    max_duration: Annotated[StrictInt, Field(ge=1, le=MAX_SECONDS)] | None = Field(
        default=None,
        alias="maxDuration",
        description="Longest life of a grant that reaches here, in seconds.",
    )
    max_bytes: Annotated[StrictInt, Field(ge=0, lt=2**63)] | None = Field(
        default=None,
        alias="maxBytes",
        description="Most bytes of one access: a file's size, a request's body.",
    )
    flag: Annotated[StrictStr, AfterValidator(check_label)] | None = Field(
        default=None, description="A label that the review shows at a change of such a file."
    )
    reason: Annotated[StrictStr, AfterValidator(check_reason)] | None = Field(
        default=None, description="Why, in plain words; shown to the user and to the agent."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        for key, part in (("allow", self.allow), ("ask", self.ask), ("deny", self.deny)):
            for action in part.stated() if part else ():
                if self.match.about_network and action != "network":
                    raise MisplacedError(f"{key}.{action}", "says nothing on a host or method")
                if self.match.about_files and action == "network":
                    raise MisplacedError(f"{key}.{action}", "says nothing on a path")
        if self.match.about_network:
            for key in ("hide", "redact", "flag"):
                if getattr(self, key):
                    raise MisplacedError(key, "is for files; this rule matches a host or method")
        if self.hide and (self.match.exe or self.match.sensitivity):
            raise MisplacedError(
                "hide", "holds for every process alike; it cannot depend on exe or sensitivity"
            )
        self._check_allow()
        return self

    def _check_allow(self) -> None:
        if self.allow is None:
            return
        allowed = [action for action in ACTIONS if self.allow.says(action)]
        if not allowed:
            return
        if self.match.exe:
            raise MisplacedError(
                "allow", "a rule on exe can only ask, deny or withhold, since a caller can fake it"
            )
        if self.hide:
            raise MisplacedError("allow", "contradicts hide, which denies every file action")
        if self.allow.list is False and allowed != ["network"]:
            raise MisplacedError(
                "allow.list", f"contradicts {allowed[0]}: what can be used can be listed"
            )

    def is_idle(self) -> bool:
        """Whether the rule changes nothing anywhere; worth a warning."""
        spoken = (self.allow, self.ask, self.deny)
        effects = (self.redact, self.max_duration, self.max_bytes, self.flag, self.hide or None)
        return all(effect is None for effect in effects) and not any(
            getattr(part, name) or (part is self.allow)
            for part in spoken
            if part is not None
            for name in part.stated()
        )


class Defaults(_Part):
    """What holds where no rule speaks. Silence and `true` add nothing; no layer can loosen
    another.
    """

    allow_ai_file_read: StrictBool | None = Field(
        default=None,
        alias="allowAIFileRead",
        description="false: no file may be granted or used but as this file's rules allow or ask.",
    )
    allow_ai_file_write: StrictBool | None = Field(
        default=None,
        alias="allowAIFileWrite",
        description="false: nothing may be written but as this file's own rules allow or ask.",
    )
    allowed_network_hosts: Annotated[
        tuple[str, ...] | None, Texts(host_pattern, bare=False, least=0)
    ] = Field(
        default=None,
        alias="allowedNetworkHosts",
        description="The only hosts that may be reached, but for this file's own rules.",
    )
    max_grant_duration_secs: Annotated[StrictInt, Field(ge=1, le=MAX_SECONDS)] | None = Field(
        default=None,
        alias="maxGrantDurationSecs",
        description="Longest life of any grant, in seconds.",
    )


class PolicyDocument(_Part):
    """One policy file."""

    schema_address: StrictStr | None = Field(
        default=None, alias="$schema", description="For editors; it has no effect."
    )
    policy_version: Annotated[StrictStr, AfterValidator(check_date)] = Field(
        alias="policyVersion", description="The date of this policy, as in 2026-01-01."
    )
    defaults: Defaults = Field(default_factory=Defaults)
    rules: Annotated[tuple[Rule, ...], Field(max_length=MAX_RULES)] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        seen: dict[str, int] = {}
        for number, rule in enumerate(self.rules):
            first = seen.setdefault(rule.id, number)
            if first != number:
                raise MisplacedError(f"rules[{number}].id", f"is the id of rules[{first}] already")
        return self

    def warnings(self) -> list[str]:
        """What is valid but surely not meant, each with its place."""
        return [
            f"rules[{number}]: {rule.id} changes nothing: it says and limits nothing"
            for number, rule in enumerate(self.rules)
            if rule.is_idle()
        ]

    def as_json(self) -> dict[str, Any]:
        """The document as it would be written, without the keys that were left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def json_schema() -> dict[str, Any]:
    """A JSON Schema (2020-12) of a policy file, for editors. What it takes, the parser may still
    refuse:
    the grammar of globs, duplicate ids and contradictions are beyond it."""
    schema: dict[str, Any] = _tidied(PolicyDocument.model_json_schema(by_alias=True))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "grantfs policy",
    }


def _tidied(node: Any) -> Any:
    """The schema without generated titles, and without the `null` that an absent key is in
    Python.
    """
    if isinstance(node, list):
        return [_tidied(item) for item in node]
    if not isinstance(node, dict):
        return node
    kept = {
        key: _tidied(value)
        for key, value in node.items()
        if not (key == "default" and value is None)
        and not (key == "title" and isinstance(value, str))
    }
    options = kept.get("anyOf")
    if isinstance(options, list):
        options = [option for option in options if option != {"type": "null"}]
        if len(options) == 1:
            del kept["anyOf"]
            return {**options[0], **kept}
        kept["anyOf"] = options
    return kept
