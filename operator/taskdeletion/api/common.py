"""What every kind shares: the base models, references, conditions. Used by the kinds beside it and the CRD generator.

All models are strict about unknown fields on input from people (`spec`) and lenient on `status`, which is ours.
"""

from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer
from pydantic.alias_generators import to_camel

GROUP = "datapipeline.dev"
VERSION = "v1beta1"
API_VERSION = f"{GROUP}/{VERSION}"
CATEGORY = "datapipeline"


RuleReason = Literal["FieldValueRequired", "FieldValueForbidden"]


def rule(expression: str, message: str, field_path: str = "", *, reason: RuleReason | None = None) -> dict[str, str]:
    """Build one `x-kubernetes-validations` entry; `field_path` (such as ".taskIds") is named in the refusal.

    A `reason` replaces the "Invalid value" that the refusal begins with otherwise.
    """
    found = {"rule": expression, "message": message, "reason": reason, "fieldPath": field_path}
    return {key: value for key, value in found.items() if value}


def with_rules(*rules: dict[str, str], **extra: Any) -> dict[str, Any]:
    """`json_schema_extra` that carries CEL rules (and other schema extensions) into the CRD."""
    return {"x-kubernetes-validations": list(rules), **extra} if rules else dict(extra)


def matching(pattern: str, advice: str, **bounds: Any) -> Any:
    """A string that matches `pattern`. In the CRD it is a CEL rule: a refusal gives `advice`, not a bare regex."""
    return Field(pattern=pattern, json_schema_extra=with_rules(rule(f"self.matches(r'{pattern}')", advice)), **bounds)


class Model(BaseModel):
    """Base of all API models: camelCase outside, snake_case inside, immutable."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore")

    def to_api(self) -> dict[str, Any]:
        """The object as JSON values for the API server: camelCase, `None` left out, times in RFC 3339."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class Kind(Model):
    """Base of the kinds: what the CRD says about one beside its schema."""

    KIND: ClassVar[str]
    PLURAL: ClassVar[str]
    SHORT_NAMES: ClassVar[tuple[str, ...]]
    CATEGORIES: ClassVar[tuple[str, ...]] = (CATEGORY,)
    PRINTER_COLUMNS: ClassVar[tuple[dict[str, Any], ...]]
    #: CEL rules over the whole object, such as its name.
    ROOT_RULES: ClassVar[tuple[dict[str, str], ...]] = ()


def _require_zone(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError("a time needs a zone, such as the Z in 2026-01-31T00:00:00Z")
    return value


def format_time(value: datetime) -> str:
    """RFC 3339 in UTC with whole seconds, as Kubernetes writes times (rounded down)."""
    return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


Time = Annotated[datetime, AfterValidator(_require_zone), PlainSerializer(format_time, when_used="json")]
ObjectName = Annotated[
    str,
    matching(
        r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$",
        "a name of a Kubernetes object has lower-case letters, digits, '-' and '.', and begins and ends with a letter"
        " or a digit; copy it from kubectl get",
        min_length=1,
        max_length=253,
    ),
]
StatusWord = Annotated[str, Field(min_length=1, max_length=64)]
TimeZone = Annotated[
    str,
    matching(
        r"^[A-Za-z0-9_+/-]+$",
        "this is no name of the IANA time zone database; write for example UTC or Asia/Shanghai",
        min_length=1,
        max_length=64,
    ),
]
Reason = Annotated[str, Field(max_length=64)]
Message = Annotated[str, Field(max_length=1024)]


class ObjectReference(Model):
    """A reference to an object of the same namespace."""

    name: ObjectName = Field(description="Name of the object; it lives in the namespace of this resource.")


class Condition(Model):
    """metav1.Condition. Source: https://github.com/kubernetes/apimachinery/blob/master/pkg/apis/meta/v1/types.go"""

    type: Annotated[str, Field(max_length=64)] = Field(description="Kind of the condition, in CamelCase.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether the condition holds.")
    observed_generation: int | None = Field(
        default=None, ge=-1, description="metadata.generation that this condition was computed from."
    )
    last_transition_time: Time = Field(description="When `status` last changed, by the API server's clock.")
    reason: Reason = Field(description="Why, as one CamelCase word; each has a page in docs/reasons.")
    message: Message = Field(description="Why, as a sentence for people.")
