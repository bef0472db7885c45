-- Accounts: the ceilings of the keys that name them. What an account allows is one JSON object, in the form of the admin API.
CREATE TABLE accounts (
    id TEXT NOT NULL PRIMARY KEY,
    rules TEXT NOT NULL
) STRICT, WITHOUT ROWID;
