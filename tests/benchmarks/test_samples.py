import pytest

from samples import Spread, Store, digits, key_of, ratio, spread


def row(seconds, clean=True):
    return {"seconds": seconds, "clean": clean}


def test_the_median_is_of_clean_samples_alone():
    found = spread([row(1.0), row(9.0, clean=False), row(2.0), row(4.0)])
    assert found == Spread(2.0, 1.0, 4.0, 3)
    assert str(found) == "2 (1-4, n=3)"


def test_where_no_sample_is_clean_the_number_says_so():
    assert str(spread([row(1.5, clean=False)])) == "1.5 (n=1, disturbed)"


def test_nothing_measured_is_none():
    assert spread([]) is None


def test_a_ratio_reaches_from_the_nearest_to_the_farthest_samples():
    found = ratio(Spread(10.0, 8.0, 12.0, 3), Spread(2.0, 1.0, 4.0, 5))
    assert found == Spread(5.0, 2.0, 12.0, 3)


def test_a_ratio_is_as_clean_as_its_worse_side():
    assert not ratio(Spread(1, 1, 1, 1), Spread(1, 1, 1, 1, clean=False)).clean


@pytest.mark.parametrize(("value", "shown"), [(12345.6, "12,346"), (99.94, "99.9"), (0.01234, "0.0123")])
def test_numbers_have_three_digits(value, shown):
    assert digits(value) == shown


def test_a_stopped_run_goes_on_where_it_was(tmp_path):
    path = tmp_path / "results.json"
    Store(path, {"machine": "here"}).add(kind="speed", engine="ours", seconds=1.0)
    with path.open("a") as file:
        file.write('{"kind": "spe')
    again = Store(path, {"machine": "here"})
    assert again.find(kind="speed", engine="ours") == [{"kind": "speed", "engine": "ours", "seconds": 1.0}]
    assert again.find(kind="speed", engine="theirs") == []


def test_a_line_cut_short_does_not_spoil_the_next(tmp_path):
    path = tmp_path / "results.json"
    Store(path, {}).add(kind="a")
    with path.open("a") as file:
        file.write('{"kind": "b')
    Store(path, {}).add(kind="c")
    assert [row["kind"] for row in Store(path, {}).rows] == ["a", "c"]


@pytest.mark.parametrize(("identity", "fresh"), [({"machine": "there"}, False), ({"machine": "here"}, True)])
def test_another_machine_or_a_wish_begins_anew_and_keeps_the_old_file(tmp_path, identity, fresh):
    path = tmp_path / "results.json"
    Store(path, {"machine": "here"}).add(kind="speed")
    again = Store(path, identity, fresh=fresh)
    assert again.rows == []
    assert again.set_aside == tmp_path / "results-1.json"
    assert Store(again.set_aside, {"machine": "here"}).find(kind="speed")


def test_a_key_differs_where_anything_differs_and_not_with_the_order():
    here = {"machine": "here", "code": "a"}
    assert key_of(here) == key_of({"code": "a", "machine": "here"})
    assert key_of(here) != key_of({**here, "code": "b"})
