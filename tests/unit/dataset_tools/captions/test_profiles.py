"""Profiles, prices, and who may send images where."""

import datetime

import pytest

from mf2.dataset_tools.captions.endpoint import UploadPermission, open_async_client, open_client, resolve_model
from mf2.dataset_tools.captions.profiles import FREE, EndpointProfile, Price, get_profile, load_price, load_profiles

CUSTOM = """
mine:
  model: some-model
  base_url: https://example.org/v1
  token_limit_name: max_tokens
  max_output_tokens: 100
"""


def test_the_shipped_profiles():
    profiles = load_profiles()
    assert profiles["paper"].model == "gpt-4o-2024-11-20" and profiles["paper"].detail == "low"
    assert profiles["paper"].parameters["store"] is profiles["current"].parameters["store"] is False
    assert "temperature" not in profiles["current"].parameters, "a reasoning model takes an effort instead"
    assert profiles["local"].is_loopback and not profiles["current"].is_loopback
    assert all(load_price(profiles[name]) for name in ("paper", "current"))


def test_profiles_of_ones_own_come_on_top(tmp_path):
    path = tmp_path / "profiles.yaml"
    path.write_text(CUSTOM)
    profiles = load_profiles(path)
    assert get_profile(profiles, "mine").model_name == "some-model" and "paper" in profiles
    with pytest.raises(ValueError, match=r"'other'.*paper.*mine"):
        get_profile(profiles, "other")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (CUSTOM + "  tempratur: 1", "unknown settings tempratur"),
        (CUSTOM.replace("  max_output_tokens: 100\n", ""), "max_output_tokens"),
        (CUSTOM.replace("100", "0"), "at least 1"),
        (CUSTOM.replace("max_tokens", "tokens"), "max_completion_tokens, max_tokens"),
        (CUSTOM.replace("https://example.org/v1", "example.org"), "http"),
        ("mine: 3", "map names to settings"),
        ("mine: [", "not valid YAML"),
    ],
)
def test_wrong_profiles_are_refused_in_words(tmp_path, text, says):
    path = tmp_path / "profiles.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=says):
        load_profiles(path)


@pytest.mark.parametrize(
    ("day", "batch", "is_allowed"),
    [
        ("2026-11-20", False, True),
        ("2027-01-06", False, True),
        ("2027-01-06", True, False),  # the window of a batch would reach into the last week
        ("2027-01-07", False, False),
        ("2027-01-14", False, False),
        ("2028-01-01", False, False),
    ],
)
def test_a_model_near_its_last_day_is_refused_and_the_successor_named(day, batch, is_allowed):
    paper, now = load_profiles()["paper"], datetime.datetime.fromisoformat(day)
    if is_allowed:
        paper.check_retirement(now, batch=batch)
    else:
        with pytest.raises(ValueError, match=r"2027-01-14.*--profile current"):
            paper.check_retirement(now, batch=batch)
    load_profiles()["current"].check_retirement(now, batch=batch)


def test_another_model_in_the_profile_has_no_known_last_day():
    paper = load_profiles()["paper"].with_overrides(model="gpt-6-luna")
    paper.check_retirement(datetime.datetime(2028, 1, 1), batch=True)


@pytest.mark.parametrize(
    ("url", "is_loopback"),
    [
        ("http://127.0.0.1:8000/v1", True),
        ("http://127.9.9.9/v1", True),
        ("http://localhost:1/v1", True),
        ("http://[::1]:8000/v1", True),
        ("https://api.openai.com/v1", False),
        ("http://192.168.0.7:8000/v1", False),
        ("http://localhost.example.org/v1", False),
        ("http://127.0.0.1.example.org/v1", False),
    ],
)
def test_only_a_server_on_this_machine_needs_no_permission(url, is_loopback):
    profile = load_profiles()["local"].with_overrides(base_url=url, model="m")
    assert profile.is_loopback == is_loopback
    if is_loopback:
        open_client(profile, None, timeout_s=1.0).close()
    else:
        for open_any in (lambda: open_client(profile, None, timeout_s=1.0),
                         lambda: open_async_client(profile, None, concurrency=1, timeout_s=1.0)):  # fmt: skip
            with pytest.raises(PermissionError, match="--i_may_upload AGREEMENT --signatory NAME"):
                open_any()


def test_a_permission_needs_both_names_and_a_hosted_model_a_key(monkeypatch):
    with pytest.raises(ValueError, match="signatory"):
        UploadPermission("Aff-Wild2 EULA", " ")
    permission = UploadPermission("Aff-Wild2 EULA", "Prof. N. N.")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(PermissionError, match="OPENAI_API_KEY"):
        open_client(load_profiles()["paper"], permission, timeout_s=1.0)
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    client = open_client(load_profiles()["paper"], permission, timeout_s=1.0)
    assert client.max_retries == 0 and client.api_key == "k"


def test_no_proxy_of_the_environment_carries_an_image_to_another_machine(monkeypatch):
    from openai_server import OpenAIServer

    monkeypatch.setenv("HTTP_PROXY", "http://192.0.2.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    with OpenAIServer() as server:
        profile = load_profiles()["local"].with_overrides(base_url=server.base_url)
        assert resolve_model(profile).model == "test-model"
        server.models.append("another")
        with pytest.raises(ValueError, match=r"2 models \(test-model, another\); choose with --model"):
            resolve_model(profile)


def test_prices():
    price = Price(input=2.0, cached_input=1.0, output=10.0, batch_factor=0.5)
    assert price.usd(1000, 400, 100) == pytest.approx((600 * 2 + 400 * 1 + 100 * 10) / 1e6)
    assert price.usd(1000, 400, 100, batch=True) == pytest.approx(price.usd(1000, 400, 100) / 2)


def test_the_price_table(tmp_path):
    profiles = load_profiles()
    assert load_price(profiles["local"]) is FREE
    unknown = profiles["current"].with_overrides(model="unheard-of")
    assert load_price(unknown) is None
    path = tmp_path / "prices.yaml"
    path.write_text("unheard-of: {input: 1, output: 2}")
    assert load_price(unknown, path) == Price(1, 2)
    # The figures of the paper's data set: 104,088 requests of 350 + 85 tokens in and 90 out.
    paper = load_price(profiles["paper"])
    assert 104_088 * paper.usd(435, 0, 90) == pytest.approx(207, abs=1)
    assert 104_088 * paper.usd(435, 0, 90, batch=True) == pytest.approx(103, abs=1)


def test_a_profile_without_a_model_says_so():
    profile = EndpointProfile("p", None, "http://127.0.0.1/v1", "max_tokens", 10)
    with pytest.raises(ValueError, match="--model"):
        _ = profile.model_name
