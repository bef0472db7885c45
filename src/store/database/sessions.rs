//! Sessions of persons. The database has only hashes of what their browsers hold.

use crate::policy::person::PersonId;
use crate::store::database::Database;
use crate::store::database::error::DatabaseError;
use crate::store::database::people::{
    Membership, PERSON, Person, SqlRow, end_sessions_of, person_of, statement, text,
};
use crate::store::database::statements::SqlValue;

/// The most sessions of one person; a further one ends the one that was idle longest.
const MOST_SESSIONS: i64 = 16;
/// A use is noted at most so often, in seconds.
const NOTED_EVERY: i64 = 60;

/// How long a session lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    /// In seconds from the sign-in on.
    pub whole: i64,
    /// In seconds without a call.
    pub idle: i64,
}

/// A session to begin.
#[derive(Clone, Debug)]
pub struct NewSession {
    /// Its id, by which its person may end it.
    pub id: String,
    /// The hash of its cookie.
    pub cookie: String,
    /// The hash of its secret.
    pub secret: String,
    /// Whose it is.
    pub person: PersonId,
    /// The stored hash of the password that was shown, which has to be the person's still; None: none was shown.
    pub password: Option<String>,
    /// The client's address at the sign-in.
    pub address: Option<String>,
    /// What the client calls itself.
    pub user_agent: Option<String>,
}

/// A session, as its person sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSession {
    /// Its id.
    pub id: String,
    /// In seconds since 1970.
    pub created_at: i64,
    /// When it was used last, within a minute; in seconds since 1970.
    pub used_at: i64,
    /// The client's address at the sign-in.
    pub address: Option<String>,
    /// What the client calls itself.
    pub user_agent: Option<String>,
}

/// The session that a call shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PersonSession {
    /// Its id.
    pub id: String,
    /// The hash of its secret, which the call has to show too.
    pub secret: String,
    /// Whose it is.
    pub person: Person,
    /// What the person may do now.
    pub memberships: Vec<Membership>,
    used_at: i64,
}

impl Database {
    /// Begins a session, and notes the sign-in of its person. Returns false where the person is not there, or has another
    /// password by now. Waits for the disk, like all below.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn begin_session(&self, new: &NewSession, now: i64) -> Result<bool, DatabaseError> {
        let NewSession {
            id,
            cookie,
            secret,
            person,
            password,
            address,
            user_agent,
        } = new;
        let optional = |value: &Option<String>| value.as_deref().map_or(SqlValue::Null, text);
        let person = text(person.as_str());
        let signed_in = statement(
            "UPDATE persons SET last_sign_in_at = $2 WHERE id = $1 AND (CAST($3 AS TEXT) IS NULL OR password = $3)",
            [person.clone(), SqlValue::Integer(now), optional(password)],
        );
        self.change_people_if(
            &signed_in,
            &[
                statement(
                    "DELETE FROM sessions WHERE person = $1 AND id NOT IN \
                     (SELECT id FROM sessions WHERE person = $1 ORDER BY used_at DESC LIMIT $2)",
                    [person.clone(), SqlValue::Integer(MOST_SESSIONS - 1)],
                ),
                statement(
                    "INSERT INTO sessions (id, cookie, secret, person, created_at, used_at, address, user_agent) \
                     VALUES ($1, $2, $3, $4, $5, $5, $6, $7)",
                    [
                        text(id),
                        text(cookie),
                        text(secret),
                        person,
                        SqlValue::Integer(now),
                        optional(address),
                        optional(user_agent),
                    ],
                ),
            ],
        )
    }

    /// The session whose cookie has this hash, if it is not over.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn session(
        &self,
        cookie: &str,
        limits: SessionLimits,
        now: i64,
    ) -> Result<Option<PersonSession>, DatabaseError> {
        let sql = format!(
            "SELECT sessions.id, sessions.secret, sessions.used_at, {PERSON} FROM sessions \
             JOIN persons ON persons.id = sessions.person \
             WHERE sessions.cookie = $1 AND sessions.created_at > $2 AND sessions.used_at > $3"
        );
        let values = [
            text(cookie),
            SqlValue::Integer(now.saturating_sub(limits.whole)),
            SqlValue::Integer(now.saturating_sub(limits.idle)),
        ];
        let rows = self.ask_people(&statement(&sql, values))?;
        let session = |row: &SqlRow| {
            Some((
                row.text(0)?,
                row.text(1)?,
                row.number(2)?,
                person_of(row, 3)?,
            ))
        };
        let Some((id, secret, used_at, person)) = rows.first().and_then(session) else {
            return Ok(None);
        };
        Ok(Some(PersonSession {
            memberships: self.memberships(&person.id)?,
            id,
            secret,
            person,
            used_at,
        }))
    }

    /// Notes that a session is used, at most once a minute.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn use_session(&self, session: &PersonSession, now: i64) -> Result<(), DatabaseError> {
        if (session.used_at..session.used_at.saturating_add(NOTED_EVERY)).contains(&now) {
            return Ok(());
        }
        let sql = "UPDATE sessions SET used_at = $2 WHERE id = $1";
        let values = [text(&session.id), SqlValue::Integer(now)];
        self.change_people(&[statement(sql, values)]).map(drop)
    }

    /// The sessions of a person that are not over, the newest first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub fn sessions_of(
        &self,
        person: &PersonId,
        limits: SessionLimits,
        now: i64,
    ) -> Result<Vec<StoredSession>, DatabaseError> {
        let sql = "SELECT id, created_at, used_at, address, user_agent FROM sessions \
                   WHERE person = $1 AND created_at > $2 AND used_at > $3 ORDER BY created_at DESC, id";
        let values = [
            text(person.as_str()),
            SqlValue::Integer(now.saturating_sub(limits.whole)),
            SqlValue::Integer(now.saturating_sub(limits.idle)),
        ];
        let rows = self.ask_people(&statement(sql, values))?;
        let session = |row: &SqlRow| {
            Some(StoredSession {
                id: row.text(0)?,
                created_at: row.number(1)?,
                used_at: row.number(2)?,
                address: row.text(3),
                user_agent: row.text(4),
            })
        };
        Ok(rows.iter().filter_map(session).collect())
    }

    /// Ends the session whose cookie has this hash, if there is one.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn end_session(&self, cookie: &str) -> Result<(), DatabaseError> {
        let sql = "DELETE FROM sessions WHERE cookie = $1";
        self.change_people(&[statement(sql, [text(cookie)])])
            .map(drop)
    }

    /// Ends a session of a person by its id. Returns whether there was one.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn end_session_of(&self, person: &PersonId, id: &str) -> Result<bool, DatabaseError> {
        let sql = "DELETE FROM sessions WHERE person = $1 AND id = $2";
        let values = [text(person.as_str()), text(id)];
        let changed = self.change_people(&[statement(sql, values)])?;
        Ok(changed == [1])
    }

    /// Ends all sessions of a person.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn end_sessions_of(&self, person: &PersonId) -> Result<(), DatabaseError> {
        self.change_people(&[end_sessions_of(person.as_str())])
            .map(drop)
    }
}
