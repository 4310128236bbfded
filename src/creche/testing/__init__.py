"""What Creche is tested with, published for those who build on it or beside it."""
