"""One scoring rule per file, found by the name of the benchmark."""

from __future__ import annotations

from stc_lab.scoring.rule import Rule
from stc_lab.scoring.rules import egoschema, mlvu, ovobench, streamingbench, streamingbench_proactive, videomme

RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        ovobench.RULE,
        streamingbench.RULE,
        streamingbench.SEQUENTIAL,
        streamingbench_proactive.RULE,
        mlvu.RULE,
        videomme.RULE,
        egoschema.RULE,
    )
}


def rule_of(benchmark: str) -> Rule | None:
    """The rule of a benchmark; ``None`` for those without an official script (``pocket``, ``folder``)."""
    return RULES.get(benchmark)
