"""Whatever a URL or a setting holds: a configuration or a ConfigError, no secret shown."""

import pickle
import traceback

from typing import Any
from urllib.parse import quote

import attrs

from hypothesis import given
from hypothesis import strategies as st

from eventbus_sync.config import BusConfig, KafkaConfig, MemoryConfig, NatsConfig
from eventbus_sync.config.url import config_from_env, config_from_url
from eventbus_sync.errors import ConfigError


MARK = "hunter2"

#: Texts that hold the mark and what URLs reserve, encoded or as somebody forgot to.
secrets = st.tuples(
    st.text('aZ0:/?#@&=%+,;[]{}" é', max_size=6),
    st.just(MARK),
    st.text('aZ0:/?#@&=%+,;[]{}" é', max_size=6),
).map("".join)
encoded = secrets.map(lambda text: quote(text, safe=""))
schemes = st.sampled_from(
    ["kafka", "kafka+tls", "nats", "nats+tls", "tls", "memory", "kafak", "", "HTTP"]
)
hosts = st.sampled_from(["a", "a:1,b", "", "[::1]:2", "a:x", ","])
secret_names = st.sampled_from(["password", "token", "nkey_seed", "tls_key_password"])
settings = st.sampled_from(
    ["", "&stream=S", "&linger=1", "&foo=1", "&tls=maybe", "&tls=true", "&", "&x"]
)


def shown_by(url: Any, **overrides: Any) -> str:
    """Return everything that a person or a log gets to see of a URL."""
    try:
        config = config_from_url(url, **overrides)
    except ConfigError as error:
        return "".join(traceback.format_exception(error, limit=0)) + repr(error)
    return f"{config} {config!r} {config.name}"


@given(schemes, secrets | encoded, hosts, settings)
def test_userinfo(scheme: str, secret: str, host: str, setting: str) -> None:
    """A password before the @ is shown nowhere, however badly it is encoded."""
    for login in (f"me:{secret}", f"{secret}", f":{secret}"):
        if login == secret and (":" in secret or scheme.lower().startswith("kafka")):
            continue  # that is a user, who is no secret
        url = f"{scheme}://{login}@{host}?{setting.removeprefix('&')}"
        assert MARK not in shown_by(url)


@given(schemes, secret_names, secrets | encoded, hosts, settings)
def test_parameters(
    scheme: str, name: str, secret: str, host: str, setting: str
) -> None:
    """A secret parameter is shown nowhere, however badly it is encoded."""
    assert MARK not in shown_by(f"{scheme}://{host}?{name}={secret}{setting}")


@given(schemes, secret_names, secrets)
def test_environment(scheme: str, name: str, secret: str) -> None:
    """A secret variable is shown nowhere."""
    environ = {"EVENTBUS_URL": f"{scheme}://a", f"EVENTBUS_{name.upper()}": secret}
    try:
        shown = repr(config_from_env(environ=environ))
    except ConfigError as error:
        shown = "".join(traceback.format_exception(error))
    assert MARK not in shown


@given(st.text() | st.text("nats:/?#@&=%,[]a1", max_size=30))
def test_any_text(text: str) -> None:
    """Any text is a configuration or a ConfigError."""
    for url in (text, f"nats://{text}", f"kafka://{text}", f"memory://?{text}"):
        shown_by(url)


@given(st.text(), st.sampled_from(["nats://me:", "kafka://me:"]))
def test_encoded_passwords_arrive(password: str, start: str) -> None:
    """A password that is percent-encoded arrives as it was meant."""
    try:
        config: Any = config_from_url(f"{start}{quote(password, safe='')}@a")
    except (ConfigError, UnicodeEncodeError):
        assert not password or not password.isascii()
    else:
        assert config.password == password


anything = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.lists(st.text() | st.integers())
    | st.dictionaries(st.text(), st.integers())
)


@given(st.data(), st.sampled_from([MemoryConfig, NatsConfig, KafkaConfig]))
def test_any_values(data: st.DataObject, kind: type[BusConfig]) -> None:
    """Settings of any type are a configuration or a ConfigError that names one."""
    names = [field.name for field in attrs.fields(kind)]
    given_settings: dict[str, Any] = data.draw(
        st.dictionaries(st.sampled_from(names), anything, max_size=3)
    )
    if kind is KafkaConfig:
        given_settings.setdefault("bootstrap_servers", "a")
    try:
        config = kind(**given_settings)
    except ConfigError as error:
        assert any(name in str(error) for name in names)  # noqa: PT017
    else:
        assert pickle.loads(pickle.dumps(config)) == config
        assert attrs.evolve(config) == config
