"""The options that several commands share: each group is a dataclass, declared once."""
