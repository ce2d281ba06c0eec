import pytest

from jpegdl.earlier import todays_name, todays_record, todays_settings


def test_what_is_no_more_is_left_out_wherever_it_stands():
    arms = [{"mine": {"training": {"rate": {"kind": "frequencies", "weight": 1}}}}, "plain"]
    settings = {"training": {"rate": {"kind": "symbols", "blocks": 3}}, "arms": arms, "layer": {"options": {"wide": True}}}
    found, gone = todays_settings(settings)
    assert found == {
        "training": {"rate": {"blocks": 3}},
        "arms": [{"mine": {"training": {"rate": {"weight": 1}}}}, "plain"],
        "layer": {"options": {"wide": True}},  # the user's own
    }
    assert gone == {"training.rate.kind": ("frequencies", "symbols")}


@pytest.mark.parametrize("cache", ["device", "auto", None, {"device": 1}])
def test_a_value_that_is_no_more(cache):
    found, gone = todays_settings({"data": {"cache": cache}})
    if cache == "device":
        assert (found, gone) == ({"data": {"cache": "auto"}}, {"data.cache": ("device", "auto")})
    else:
        assert (found, gone) == ({"data": {"cache": cache}}, {})


def test_a_record_has_todays_names():
    settings = {"seed": 3, "training": {"accelerator": "gpu", "epochs": 2}, "data": {"path": "/images", "workers": 1}}
    now = {"seed": 3, "training": {"epochs": 2}, "data": {"path": "/images", "workers": 1}, "device": "gpu"}
    assert todays_record(settings) == (now, {})
    assert todays_record(now) == (now, {})
    assert settings["training"]["accelerator"] == "gpu"  # as it was


def test_a_name_is_answered_where_todays_is_known():
    assert todays_name("attack_seed", ["images_seed"]) == "images_seed"
    assert todays_name("attack_seed", ["seed"]) is None
    assert todays_name("seed", ["seed", "images_seed"]) is None
    assert todays_name("nonsense", ["nonsense", None]) is None
