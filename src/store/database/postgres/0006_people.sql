-- Persons: who may sign in to the panel. Without an issuer a person signs in with a password, and subject is the e-mail
-- address. password is in the PHC string format. Times are in seconds since 1970.
CREATE TABLE persons (
    id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    issuer TEXT COLLATE "C" NOT NULL,
    subject TEXT COLLATE "C" NOT NULL,
    email TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C",
    password TEXT COLLATE "C",
    created_at BIGINT NOT NULL,
    last_sign_in_at BIGINT,
    UNIQUE (issuer, subject)
);
-- by_claim is 1 where a claim of the identity provider gives the role: it is judged again at each sign-in.
CREATE TABLE members (
    account TEXT COLLATE "C" NOT NULL,
    person TEXT COLLATE "C" NOT NULL,
    role TEXT COLLATE "C" NOT NULL,
    by_claim BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (account, person)
);
CREATE INDEX members_by_person ON members (person);
-- hash is that of the code in the link. person is set where the link gives that person a new password. inviter is the member
-- who made it, null an operator. used_at is when it was used up.
CREATE TABLE invitations (
    id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    hash TEXT COLLATE "C" NOT NULL UNIQUE,
    account TEXT COLLATE "C" NOT NULL,
    email TEXT COLLATE "C" NOT NULL,
    role TEXT COLLATE "C" NOT NULL,
    person TEXT COLLATE "C",
    invited_by TEXT COLLATE "C" NOT NULL,
    inviter TEXT COLLATE "C",
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    used_at BIGINT
);
CREATE INDEX invitations_by_account ON invitations (account, created_at);
CREATE INDEX invitations_by_email ON invitations (email);
-- cookie and secret are hashes of what the browser holds.
CREATE TABLE sessions (
    id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    cookie TEXT COLLATE "C" NOT NULL UNIQUE,
    secret TEXT COLLATE "C" NOT NULL,
    person TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    used_at BIGINT NOT NULL,
    address TEXT COLLATE "C",
    user_agent TEXT COLLATE "C"
);
CREATE INDEX sessions_by_person ON sessions (person);
ALTER TABLE audit ADD COLUMN account TEXT COLLATE "C";
CREATE INDEX audit_by_account ON audit (account, n);
