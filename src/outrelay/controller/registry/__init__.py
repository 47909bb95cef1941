"""Registry: which agent serves which service, behind which relay, and which relays live."""
