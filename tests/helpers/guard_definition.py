"""What the guard shows of a whole text, by regular expressions: `whole_text` is what the state machine is compared with."""

import re

from megatron_srp.generation.guard.policy import GuardPolicy
from megatron_srp.generation.guard.scanner import LONGEST
from megatron_srp.reflection import ReflectionFormat
from megatron_srp.schema import Verdict

EOS = "\ue000"  # stands for the token in texts of tests
FORM = ReflectionFormat()
UNSAFE_ONLY = frozenset({Verdict.UNSAFE})
WORDS = ["unsafe", "controversial", "safe"]
SPACE = r" \t\r\n\xa0"
GAP = rf"[{SPACE}]{{0,8}}"
UNBRACKETED = rf"<think(?=[^\w{SPACE}>]|[{SPACE}]{{1,8}}[^{SPACE}>]|[{SPACE}]{{9}})"
OPENING = re.compile(rf" ?(?:<{GAP}think{GAP}>|{UNBRACKETED})", re.IGNORECASE)
CLOSING = re.compile(r" ?</think>", re.IGNORECASE)
PART = re.compile(rf" ?<({GAP}(t|th|thi|thin|think{GAP})?|/(t|th|thi|thin|think)?)\Z", re.IGNORECASE)
STRICT = re.compile(r" ?<think> (Safe(?= <)|Controversial|Unsafe)(?:: ([^<>\n\r]+?))? </think>")
FLAWED = re.compile(r"([ \t\r\n]{0,8}([A-Za-z]*)[^<>\n\r]*)", re.IGNORECASE)
SAFE_CUT = re.compile(r"([ \t\r\n]{0,8}safe(?![A-Za-z])[^<>\n\r]*)(?:<|</|</t[hink]*)?\Z", re.IGNORECASE)
WORD_CUT = re.compile(r"[ \t\r\n]{0,8}([A-Za-z]*)\Z")


def reflection_at(text: str):
    """End, verdict (None for a piece that the end has cut), and whether the end has cut it; or None."""
    if PART.match(text):
        return len(text), None, True
    if closing := CLOSING.match(text):
        return closing.end(), "Unsafe", False
    if not (opening := OPENING.match(text)):
        return None
    begin, inner = opening.end(), text[opening.end() :]
    if (cut := WORD_CUT.match(inner)) and any(word.startswith(cut[1].lower()) for word in WORDS):
        word = cut[1].capitalize()
        return len(text), word if word in ("Unsafe", "Controversial") else None, True
    if (strict := STRICT.match(text)) and len(strict[0].partition("<think>")[2]) - len("</think>") < LONGEST:
        return strict.end(), strict[1], False
    if (safe := SAFE_CUT.match(inner)) and len(safe[1]) < LONGEST and "</think>".startswith(inner[safe.end(1) :]):
        return len(text), None, True
    flawed = FLAWED.match(inner)
    word = flawed[2].capitalize() if flawed[2].lower() == "controversial" else "Unsafe"
    end = begin + min(len(flawed[1]), LONGEST)
    tail, long = text[end:], len(flawed[1]) >= LONGEST
    if not long and tail.startswith("</think>"):
        return end + len("</think>"), word, False
    if not long and "</think>".startswith(tail):
        return len(text), word, True
    return end, word, False


def whole_text(text: str, policy: GuardPolicy) -> tuple[str, list[str], str]:
    """What a reader sees of an answer, the verdicts, and the reason of its end, from the answer as a whole."""
    shown, segment, verdicts, at, passes, first = "", "", [], 0, False, False
    while at < len(text):
        if text[at] == EOS:
            if not passes:
                return shown, verdicts, "eos"
            passes, at = False, at + 1
            continue
        passes = False
        run = text[at:].partition(EOS)[0]
        if found := reflection_at(run):
            end, verdict, cut = found
            at += end
            first = not shown + segment
            if verdict:
                verdicts.append(verdict)
                if policy.on_unsafe != "off" and Verdict(verdict) in policy.stop_at:
                    refusal = "\n\n" * bool(shown) + policy.refusal if policy.on_unsafe == "refuse" else ""
                    return shown + refusal, verdicts, "unsafe"
                shown, segment = shown + segment, ""
                passes = not cut and policy.on_unsafe != "off" and verdict != "Safe"
            continue
        if not (first and text[at] == " "):
            segment += text[at]
        first, at = False, at + 1
        if policy.on_unsafe != "retract":
            shown, segment = shown + segment, ""
    return shown, verdicts, "length"
