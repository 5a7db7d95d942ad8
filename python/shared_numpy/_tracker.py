"""The way to the resource tracker (in work)."""


def register(rtype, name, identity=(0, 0)):
    pass


def unregister(rtype, name, identity=(0, 0)):
    pass


def gone(rtype, name, identity=(0, 0)):
    pass
