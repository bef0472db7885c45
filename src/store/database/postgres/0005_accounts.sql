-- Accounts: the ceilings of the keys that name them. What an account allows is one JSON object, in the form of the admin API.
CREATE TABLE accounts (
    id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    rules TEXT COLLATE "C" NOT NULL
);
-- Grows by one with each change of what it names, so that a gateway sees by one number whether another gateway has changed
-- something.
CREATE TABLE revisions (
    name TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    value BIGINT NOT NULL
);
INSERT INTO revisions (name, value) VALUES ('accounts', 0);
