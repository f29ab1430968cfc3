"""`spacte reproduce`: the tables of the papers, trained and certified here in slices, beside what was published."""
