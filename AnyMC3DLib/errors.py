"""The errors that are meant for a person: one sentence that says what was wrong and what to do."""


class AnyMC3DError(Exception):
    """Base of every error whose message can be shown to a user as it is."""


class InputError(AnyMC3DError):
    """An image, a region, a table or a setting cannot be used."""


class PluginError(AnyMC3DError):
    """A plugin file cannot be used, or not on this backbone."""


class BackboneError(AnyMC3DError):
    """A backbone is unknown, its weights are not at hand, or it lacks what was asked of it."""


class Cancelled(AnyMC3DError):
    """The user asked for the work to stop."""


class Suspended(Cancelled):
    """The work was asked to end, has saved where it stands, and can go on another time."""


class MemoryShortage(AnyMC3DError):
    """The memory does not suffice, whatever was tried."""
