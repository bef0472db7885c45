-- Persons: who may sign in to the panel. Without an issuer a person signs in with a password, and subject is the e-mail
-- address. password is in the PHC string format. Times are in seconds since 1970.
CREATE TABLE persons (
    id TEXT NOT NULL PRIMARY KEY,
    issuer TEXT NOT NULL,
    subject TEXT NOT NULL,
    email TEXT NOT NULL,
    name TEXT,
    password TEXT,
    created_at INTEGER NOT NULL,
    last_sign_in_at INTEGER,
    UNIQUE (issuer, subject)
) STRICT, WITHOUT ROWID;
-- by_claim is 1 where a claim of the identity provider gives the role: it is judged again at each sign-in.
CREATE TABLE members (
    account TEXT NOT NULL,
    person TEXT NOT NULL,
    role TEXT NOT NULL,
    by_claim INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (account, person)
) STRICT, WITHOUT ROWID;
CREATE INDEX members_by_person ON members (person);
-- hash is that of the code in the link. person is set where the link gives that person a new password. inviter is the member
-- who made it, null an operator. used_at is when it was used up.
CREATE TABLE invitations (
    id TEXT NOT NULL PRIMARY KEY,
    hash TEXT NOT NULL UNIQUE,
    account TEXT NOT NULL,
    email TEXT NOT NULL,
    role TEXT NOT NULL,
    person TEXT,
    invited_by TEXT NOT NULL,
    inviter TEXT,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    used_at INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX invitations_by_account ON invitations (account, created_at);
CREATE INDEX invitations_by_email ON invitations (email);
-- cookie and secret are hashes of what the browser holds.
CREATE TABLE sessions (
    id TEXT NOT NULL PRIMARY KEY,
    cookie TEXT NOT NULL UNIQUE,
    secret TEXT NOT NULL,
    person TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    used_at INTEGER NOT NULL,
    address TEXT,
    user_agent TEXT
) STRICT, WITHOUT ROWID;
CREATE INDEX sessions_by_person ON sessions (person);
ALTER TABLE audit ADD COLUMN account TEXT;
CREATE INDEX audit_by_account ON audit (account, n);
