"""``infra/compose.yaml``, read."""

from typing import Any

import yaml

from tests.conftest import REPOSITORY

INFRA = REPOSITORY / "infra"
COMPOSE = yaml.safe_load((INFRA / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
