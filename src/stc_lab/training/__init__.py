"""How the pocket models were made. It stands on top of everything: no other room imports it."""
