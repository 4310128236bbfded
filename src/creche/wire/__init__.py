"""The wire protocol `creche.v1`: messages, their encoding, and who may say what, when."""
