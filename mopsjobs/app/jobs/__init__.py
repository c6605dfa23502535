"""One job: finding it, judging it by its record and its engine, and the words for that."""
