"""A policy: what becomes of a segment, by its verdict. A YAML file, no code.

name: my-policy
by: segment                   # or document: the worst verdict of a document decides about all its segments
tokens: text                  # or special: the texts below, and the words around a verdict, are tokens of their own
rules:                        # what happens to a segment; one whose verdict has no rule stays as it is
  Safe: {reflect: true}       # followed by a reflection on it
  Controversial, Unsafe:
    text: keep                # or drop; or mask: read, and not learned
    before: <bad>             # written before the segment
    after: <end>              # written after it, instead of a reflection
    inside: <bad>             # written at random places in it,
    rate: 0.05                # before this share of its tokens
    untagged: 0.01            # this share of the segments, chosen at random, stays as it is
    learned: true             # whether what is written is learned
"""

import argparse
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from megatron_srp.errors import UsageError, did_you_mean
from megatron_srp.reflection import ReflectionFormat, reflection_format
from megatron_srp.schema import Verdict

NAMES = ("srp", "filter-document", "drop-segment", "mask-loss", "hide", "tag-before", "tag-inside")


@dataclass(frozen=True, slots=True)
class Rule:
    """What happens to a segment; the module's docstring explains the fields."""

    reflect: bool = False
    text: Literal["keep", "drop", "mask"] = "keep"
    before: str = ""
    after: str = ""
    inside: str = ""
    rate: float = 0.0
    untagged: float = 0.0
    learned: bool = True

    def __post_init__(self) -> None:
        for name in ("rate", "untagged"):
            _require(_is_number(value := getattr(self, name)) and 0 <= value <= 1, name, value, "a share from 0 to 1")
        for name in ("before", "after", "inside"):
            _require(isinstance(value := getattr(self, name), str), name, value, "a text")
        for name in ("reflect", "learned"):
            _require(isinstance(value := getattr(self, name), bool), name, value, "true or false")
        if self.text not in ("keep", "drop", "mask"):
            raise UsageError(f"text: {self.text}; {did_you_mean(str(self.text), ['keep', 'drop', 'mask'])}")
        if self.reflect and self.after:
            raise UsageError("reflect and after both write after the segment; choose one")
        if bool(self.inside) != bool(self.rate):
            raise UsageError("inside is what to write and rate how often; give both or neither")
        if self.inside and self.text == "drop":
            raise UsageError("text: drop leaves no place for inside")

    @property
    def writes(self) -> bool:
        """Whether anything is written around the segment."""
        return self.reflect or bool(self.before or self.after)

    def describe(self) -> dict[str, Any]:
        """The fields that differ from those of a segment that stays as it is."""
        return {name: value for name, value in asdict(self).items() if value != getattr(Rule(), name)}


def _require(holds: bool, name: str, value: Any, allowed: str) -> None:
    if not holds:
        raise UsageError(f"{name}: {value!r} is not {allowed}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


KEEP = Rule()


@dataclass(frozen=True)
class Policy:
    """What becomes of segments; the module's docstring explains the fields of its file.

        >>> from megatron_srp import Policy, Verdict
        >>> Policy.load("drop-segment").rule(Verdict.UNSAFE).describe()
        {'text': 'drop'}

    Attributes:
        form: how reflections are written, and which verdict Controversial counts as.
        start_share: the share of training before which the plain text is read.
    """

    name: str = "srp"
    rules: dict[Verdict, Rule] = field(default_factory=lambda: dict.fromkeys(Verdict, Rule(reflect=True)))
    by: Literal["segment", "document"] = "segment"
    form: ReflectionFormat = field(default_factory=ReflectionFormat)
    start_share: float = 0.0

    def __post_init__(self) -> None:
        if not (_is_number(self.start_share) and 0 <= self.start_share < 1):
            raise UsageError(f"--start-share {self.start_share}: pass a share of the training, from 0 to below 1")
        if self.form.hints and not self.is_srp:
            raise UsageError(f"--hints are written in reflections of --policy srp; {self.name} cannot have them")

    @classmethod
    def load(cls, name: str, form: ReflectionFormat | None = None, start_share: float = 0.0) -> "Policy":
        """The policy of this name, or of a YAML file.

        Args:
            form: by default with the tokens that the policy's file asks for.

        Raises:
            UsageError: for an unknown name, and for a file that does not exist or is no policy.
        """
        tree = _read(name)
        form = form or ReflectionFormat(special_tokens=_tokens(tree, name) == "special")
        try:
            known = {"name", "by", "tokens", "rules"}
            if unknown := [key for key in tree if key not in known]:
                raise UsageError(f"unknown field {unknown[0]!r}; {did_you_mean(str(unknown[0]), sorted(known))}")
            _require(isinstance(own := tree["name"], str) and bool(own.strip()), "name", own, "a text")
            by = tree.get("by", "segment")
            if by not in ("segment", "document"):
                raise UsageError(f"by: {by}; {did_you_mean(str(by), ['segment', 'document'])}")
            return cls(own, _rules(tree["rules"]), by, form, start_share)
        except KeyError as error:
            raise UsageError(f"--policy {name}: has no {error}; data/policies/policy.py shows the form") from None
        except UsageError as error:
            if str(error).startswith("--"):
                raise
            raise UsageError(f"--policy {name}: {error}") from None

    def rule(self, verdict: Verdict) -> Rule:
        """What happens to a segment with this verdict, after `controversial`."""
        return self.rules.get(verdict, KEEP)

    @cached_property
    def is_srp(self) -> bool:
        """Whether each segment is followed by a reflection, and nothing else happens."""
        return self.by == "segment" and all(self.rule(verdict) == Rule(reflect=True) for verdict in Verdict)

    @property
    def reflects(self) -> bool:
        """Whether any segment is followed by a reflection."""
        return any(rule.reflect for rule in self.rules.values())

    @property
    def drops(self) -> bool:
        """Whether any segment is left out, which nothing can put back."""
        return any(rule.text == "drop" for rule in self.rules.values())

    @property
    def masks(self) -> bool:
        """Whether anything is read and not learned."""
        return any(rule.text == "mask" or not rule.learned for rule in self.rules.values())

    @property
    def marks(self) -> list[str]:
        """The texts that are tokens of their own; none where the form writes plain text."""
        if not self.form.special_tokens:
            return []
        around = [self.form.open, self.form.close] if self.reflects else []
        texts = [text for rule in self.rules.values() for text in (rule.before, rule.after, rule.inside) if text]
        return list(dict.fromkeys([*around, *texts]))

    def settings(self) -> dict[str, Any]:
        """Its record in manifests and sidecars: the form of reflections, and the policy unless it is `srp`."""
        own = {} if self.is_srp and not self.start_share else {"policy": self.describe()}
        return {"reflection": self.form.describe() if self.reflects else None, **own}

    def describe(self) -> dict[str, Any]:
        """All fields, as JSON."""
        return {
            "name": self.name,
            "by": self.by,
            "rules": {str(verdict): rule.describe() for verdict, rule in self.rules.items()},
            "form": self.form.describe(),
            "start_share": self.start_share,
        }

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> "Policy":
        """The inverse of `settings`; raises KeyError, TypeError, ValueError or UsageError for anything else."""
        own = settings.get("policy")
        if own is None:
            return cls(form=ReflectionFormat.from_description(settings["reflection"]))
        rules = {Verdict(verdict): Rule(**rule) for verdict, rule in own["rules"].items()}
        form = ReflectionFormat.from_description(own["form"])
        return cls(own["name"], rules, own["by"], form, own["start_share"])


def is_treated(manifest: dict[str, Any]) -> bool:
    """Whether the shards of a manifest are not plain: a policy has been applied to them."""
    return bool(manifest.get("reflection") or manifest.get("policy"))


def refuse_in_shards(policy: Policy) -> None:
    """Raises UsageError for a policy that only a sidecar can hold: Megatron reads nothing but tokens from a shard."""
    needs = "a loss mask" if policy.masks else "the plain text as well" if policy.start_share else ""
    if needs:
        what = "--start-share" if policy.start_share and not policy.masks else f"--policy {policy.name}"
        raise UsageError(
            f"{what} needs {needs}, which a shard cannot hold: make a plain shard (--guard none), and a sidecar for it "
            "with --input-shards, without --materialize"
        )


def policy_name(settings: dict[str, Any]) -> str | None:
    """The name of the policy in a manifest, a sidecar or a record; None for plain shards."""
    if isinstance(own := settings.get("policy"), dict):
        return str(own.get("name"))
    return "srp" if settings.get("reflection") else None


def policy_of(args: argparse.Namespace) -> Policy:
    """The policy that parsed flags describe: --policy, --start-share, and those of `reflection_format`."""
    args.reflection_tokens = args.reflection_tokens or _tokens(_read(args.policy), args.policy)
    return Policy.load(args.policy, reflection_format(args), args.start_share)


def _read(name: str) -> dict[str, Any]:
    import yaml

    path = files(__package__).joinpath(f"{name}.yaml") if name in NAMES else Path(name)
    if name not in NAMES and Path(name).suffix not in (".yaml", ".yml"):
        raise UsageError(f"--policy {name!r} is unknown; {did_you_mean(name, [*NAMES, 'a .yaml file'])}")
    try:
        tree = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UsageError(f"--policy {name}: {error.strerror}; pass {', '.join(NAMES)} or a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"--policy {name}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(tree, dict):
        raise UsageError(f"--policy {name}: not a policy; data/policies/policy.py shows the form")
    return tree


def _tokens(tree: dict[str, Any], name: str) -> str:
    tokens = tree.get("tokens", "text")
    if tokens not in ("text", "special"):
        raise UsageError(f"--policy {name}: tokens: {tokens}; {did_you_mean(str(tokens), ['text', 'special'])}")
    return str(tokens)


def _rules(tree: Any) -> dict[Verdict, Rule]:
    if not isinstance(tree, dict):
        raise UsageError(f"rules: {tree!r} does not say what happens by verdict")
    known = [own.name for own in fields(Rule)]
    rules: dict[Verdict, Rule] = {}
    for names, given in tree.items():
        if not isinstance(given, dict):
            raise UsageError(f"rules, {names}: {given!r} is not a rule; write one such as {{text: drop}}")
        if unknown := [key for key in given if key not in known]:
            raise UsageError(f"rules, {names}: {unknown[0]!r} is unknown; {did_you_mean(str(unknown[0]), known)}")
        for verdict in str(names).split(","):
            rules[Verdict.from_name(verdict.strip())] = Rule(**given)
    return {verdict: rules[verdict] for verdict in Verdict if verdict in rules}


def as_srp(form: ReflectionFormat) -> Policy:
    """The policy `srp`, with reflections in this form."""
    return replace(Policy(), form=form)
