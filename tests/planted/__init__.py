"""One-line faults, each of which a test must notice: shown by `make prove-planted`."""

from tests.planted.delivery import DELIVERY_FAULTS
from tests.planted.files import FILE_FAULTS
from tests.planted.leases import LEASE_FAULTS
from tests.planted.lending import LENDING_FAULTS
from tests.planted.loops import LOOP_FAULTS
from tests.planted.members import MEMBER_FAULTS
from tests.planted.observing import OBSERVING_FAULTS
from tests.planted.plan import PLAN_FAULTS
from tests.planted.questions import QUESTION_FAULTS
from tests.planted.roles import ROLE_FAULTS
from tests.planted.sessions import SESSION_FAULTS
from tests.planted.signals import SIGNAL_FAULTS
from tests.planted.simulated import SIMULATED_FAULTS
from tests.planted.spine import SPINE_FAULTS
from tests.planted.tokens import TOKEN_FAULTS
from tests.planted.values import VALUE_FAULTS

FAULTS = [
    *DELIVERY_FAULTS,
    *FILE_FAULTS,
    *LEASE_FAULTS,
    *LENDING_FAULTS,
    *LOOP_FAULTS,
    *MEMBER_FAULTS,
    *OBSERVING_FAULTS,
    *PLAN_FAULTS,
    *QUESTION_FAULTS,
    *ROLE_FAULTS,
    *SIGNAL_FAULTS,
    *SIMULATED_FAULTS,
    *SESSION_FAULTS,
    *SPINE_FAULTS,
    *TOKEN_FAULTS,
    *VALUE_FAULTS,
]
