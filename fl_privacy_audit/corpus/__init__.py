"""Corpora: images x victims x attacks x defences -> originals beside what attacks made of them."""
