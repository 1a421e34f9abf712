"""F1: the teacher against its law, and the four policies against their closed forms. Chains are judged by replaying their words, which
shares no code with the closed form."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from orchard.errors import BadInput
from orchard.papers.llava_reasoner.data import distill
from orchard.papers.llava_reasoner.data.chart_world import ChartWorld, Records
from orchard.papers.llava_reasoner.data.distill import POLICIES, distil, precisions
from orchard.papers.llava_reasoner.data.questions import TASKS, Questions, gold, questions, results
from orchard.papers.llava_reasoner.data.replay import replay
from orchard.papers.llava_reasoner.data.teacher import HASTY, STYLES, Teacher, one_off
from orchard.stats import wilson_interval

LEVEL = 0.999  # of each of a dozen intervals
NOISY = {"misread": 0.3, "miscalculate": 0.12, "label_noise": 0.25}  # so that every way to be wrong is frequent


@lru_cache(maxsize=2)
def drawn(count: int, bars: int = 4, highest: int = 9) -> tuple[ChartWorld, Records, Questions]:
    world = ChartWorld.Config(train=count, bars=bars, fewest=bars, highest=highest).build()
    records = world.charts("train").records
    return world, records, questions(world, records, 3, TASKS)


def within(successes: int, total: int, wanted: float) -> bool:
    found = wilson_interval(successes, total, LEVEL)
    return bool(found.low <= wanted <= found.high)


def test_f1_closed_forms_hold_at_twenty_thousand_records() -> None:
    world, records, asked = drawn(20_000)
    teacher = Teacher.Config().build()
    law = precisions(world, teacher, TASKS)
    chains, labels, truth = (
        teacher.write(world, records, asked),
        teacher.labels(records, asked),
        results(records.value, asked)[:, 1],
    )
    answers, right = chains.results[:, 1], chains.right(records, asked)
    kept = answers == labels
    n, k = len(kept), int(kept.sum())
    assert within(k, n, law.loc["filter", "kept"])
    assert within(int((labels == truth)[kept].sum()), k, law.loc["filter", "label"])
    assert within(int(right[kept].sum()), k, law.loc["filter", "chain"])
    assert within(int(right.sum()), n, law.loc["all", "chain"])
    assert within(int((answers == truth).sum()), n, law.loc["all", "answer"])
    assert within(int((labels == truth).sum()), n, law.loc["all", "label"])
    assert law.loc["all", "label"] == pytest.approx(0.92)
    assert law.loc["filter", "chain"] > 0.96 > 0.87 > law.loc["all", "chain"] > law.loc["rationalise", "chain"]
    assert np.allclose(law.loc["gold"], 1)


@pytest.mark.parametrize("policy", POLICIES)
def test_f1_what_a_policy_writes_is_as_often_right_as_its_closed_form_says(policy: str) -> None:
    world, records, asked = drawn(2100, bars=3, highest=5)
    teacher = Teacher.Config(**NOISY).build()
    law = precisions(world, teacher, TASKS).loc[policy]
    given = distil(policy, world, records, asked, teacher)
    truth = gold(records, asked)[0]
    replays = [replay(c, records.bars(i), asked.row(i)) for i, c in zip(given.rows, given.chains, strict=True)]
    n = len(given.rows)
    assert within(n, len(asked), law["kept"])
    assert within(sum(label == truth[i] for i, label in zip(given.rows, given.labels, strict=True)), n, law["label"])
    assert within(sum(r.answer_right for r in replays), n, law["answer"])
    assert within(sum(r.first_wrong is None for r in replays), n, law["chain"])
    if policy in ("filter", "rationalise"):
        assert [r.answer for r in replays] == given.labels
    assert [style != "hasty" for style in given.styles] == [r.listed for r in replays]


def test_right_of_the_arrays_is_right_of_the_replayed_words() -> None:
    world, records, asked = drawn(2100, bars=3, highest=5)
    chains = Teacher.Config(**NOISY).build().write(world, records, asked)
    words = [
        replay(text, records.bars(i), asked.row(i)).first_wrong is None
        for i, text in enumerate(chains.texts(records, asked))
    ]
    assert words == chains.right(records, asked).tolist()


def test_the_teacher_errs_by_its_law() -> None:
    world, records, asked = drawn(20_000)
    chains = Teacher.Config().build().write(world, records, asked)
    for style, share in enumerate((0.50, 0.35, 0.15)):
        assert within(int((chains.style == style).sum()), len(asked), share)
    assert within(int((chains.misread >= 0).sum()), len(asked), 0.10)
    off = chains.belief.astype(int) - records.value
    assert (np.abs(off).sum(1) == (chains.misread >= 0)).all()
    assert ((chains.belief >= 1) & (chains.belief <= 9)).all()
    sums = asked.task == TASKS.index("sum")
    for style, rate in enumerate((0.05, 0.05, 0.20)):
        chosen = sums & (chains.style == style)
        assert within(int((chains.slips[chosen, 1] != 0).sum()), int(chosen.sum()), rate)
    assert not chains.slips[:, 0][asked.task != TASKS.index("range_plus")].any()
    assert not chains.slips[np.isin(asked.task, (0, 1))].any()  # lookup and tallest compute nothing
    assert one_off(np.array([1, 5, 5, 9]), np.array([False, False, True, True]), 9).tolist() == [2, 4, 6, 8]


def test_chains_of_the_first_questions_do_not_depend_on_the_others_and_attempts_keep_the_style() -> None:
    world, records, asked = drawn(20_000)
    teacher, few = Teacher.Config().build(), np.arange(70)
    first = teacher.write(world, records, asked)
    part = teacher.write(world, records.take(few), asked.take(few))
    assert all(np.array_equal(vars(part)[name], vars(first)[name][:70]) for name in vars(part))
    assert np.array_equal(teacher.labels(records.take(few), asked.take(few)), teacher.labels(records, asked)[:70])
    second = teacher.write(world, records, asked, attempt=1)
    assert np.array_equal(first.style, second.style)
    assert not np.array_equal(first.misread, second.misread)
    assert part.styles() == [STYLES[style] for style in part.style]
    texts = part.texts(records.take(few), asked.take(few))
    assert [texts[i].count(";") >= 4 or asked.task[i] == 5 for i in few] == [
        style != HASTY or asked.task[i] == 5 for i, style in enumerate(part.style)
    ]


def test_further_tries_keep_more_questions_and_leave_the_first_ones_as_they_were() -> None:
    world, records, asked = drawn(2100, bars=3, highest=5)
    teacher, rows = Teacher.Config().build(), np.arange(700)
    parts = world, records.take(rows), asked.take(rows), teacher
    once, thrice = distil("filter", *parts), distil("filter", *parts, tries=3)
    assert len(once.rows) < len(thrice.rows)
    later = dict(zip(thrice.rows.tolist(), thrice.chains, strict=True))
    assert [later[i] for i in once.rows.tolist()] == once.chains


def test_a_teacher_without_errors_and_clean_labels_make_all_policies_gold() -> None:
    world, records, asked = drawn(2100, bars=3, highest=5)
    clean = Teacher.Config(misread=0.0, miscalculate=0.0, label_noise=0.0, mix=[1.0, 0.0, 0.0]).build()
    assert np.allclose(precisions(world, clean, TASKS), 1)
    rows = np.arange(140)
    answers, chains = gold(records.take(rows), asked.take(rows))
    for policy in POLICIES:
        given = distil(policy, world, records.take(rows), asked.take(rows), clean)
        assert given.chains == chains
        assert given.labels == answers


def test_bad_input_is_told() -> None:
    world, records, asked = drawn(2100, bars=3, highest=5)
    teacher = Teacher.Config().build()
    with pytest.raises(BadInput, match=r"Teacher.Config.misread is 1.5: give a probability from 0 to 1"):
        Teacher.Config(misread=1.5).build()
    with pytest.raises(BadInput, match=r"miscalculate is 0.3: give a probability from 0 to 0.25"):
        Teacher.Config(miscalculate=0.3).build()
    with pytest.raises(BadInput, match=r"mix is \[0.5, 0.5\]: give three shares, of careful, hasty, sloppy"):
        Teacher.Config(mix=[0.5, 0.5]).build()
    with pytest.raises(BadInput, match="no policy 'filtered'; did you mean 'filter'"):
        distil("filtered", world, records, asked, teacher)
    with pytest.raises(BadInput, match="tries = 0"):
        distil("filter", world, records, asked, teacher, tries=0)
    with pytest.raises(BadInput, match="2100 records, 3 questions"):
        teacher.write(world, records, asked.take(np.arange(3)))
    with pytest.raises(BadInput, match="2100 chains, 2100 records, 3 questions"):
        teacher.write(world, records, asked).texts(records, asked.take(np.arange(3)))
    with pytest.raises(BadInput, match=r"3 \.\.\. 4 bars with 9 values"):
        precisions(ChartWorld.Config(fewest=3).build(), teacher)
    with pytest.raises(BadInput, match="no task is given"):
        precisions(world, teacher, [])
    assert distill.MOST >= 9**4
