"""Topics and permissions of an Apache Kafka node, made by somebody who may do all."""

from collections.abc import Mapping
from typing import Any, Final

from confluent_kafka.admin import AdminClient

# The submodules, because the package does not declare that it exports these names.
from confluent_kafka.admin._acl import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
)
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType
from confluent_kafka.cimpl import NewTopic
from support.rigs import unique


#: Server properties with which users may do what they are granted, and no more.
GRANTED_ONLY: Final = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "super.users": "User:ANONYMOUS",
}


class Grants:
    """Each call returns when the broker has done it."""

    def __init__(self, servers: str) -> None:
        self._client = AdminClient({"bootstrap.servers": servers, "log_level": 0})

    def new_topic(self, name: str = "", partitions: int = 2, **config: str) -> str:
        """A topic exists, by default with a name of its own; returns its name."""
        name = name or unique("topic")
        settings = {key.replace("_", "."): value for key, value in config.items()}
        wanted = NewTopic(name, partitions, 1, config=settings)
        self._done(self._client.create_topics([wanted]))
        return name

    def delete_topic(self, topic: str) -> None:
        """The topic is gone."""
        self._done(self._client.delete_topics([topic]))

    def grant_write(self, user: str, topic: str) -> None:
        """The user may write to the topic."""
        self._grant(user, topic, AclOperation.WRITE)

    def grant_describe(self, user: str, topic: str) -> None:
        """The user may know of the topic."""
        self._grant(user, topic, AclOperation.DESCRIBE)

    def take_away(self, user: str, topic: str) -> None:
        """The user may do nothing with the topic any more."""
        rule = AclBindingFilter(
            ResourceType.TOPIC,
            topic,
            ResourcePatternType.LITERAL,
            f"User:{user}",
            "*",
            AclOperation.ANY,
            AclPermissionType.ANY,
        )
        self._done(self._client.delete_acls([rule]))

    def _grant(self, user: str, topic: str, operation: AclOperation) -> None:
        rule = AclBinding(
            ResourceType.TOPIC,
            topic,
            ResourcePatternType.LITERAL,
            f"User:{user}",
            "*",
            operation,
            AclPermissionType.ALLOW,
        )
        self._done(self._client.create_acls([rule]))

    def _done(self, futures: Mapping[Any, Any]) -> None:
        for future in futures.values():
            future.result(30)
