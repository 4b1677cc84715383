"""Which sample comes when: keyed orders that do not depend on the number of workers."""
