#!/bin/sh
# The image of PostgreSQL runs this once, when it makes the database: the gateways' role, which is no superuser, and
# its database. The password is read by psql itself, so that no command line shows it.
set -eu
psql --no-psqlrc --set ON_ERROR_STOP=1 --username postgres <<'SQL'
\set password `cat /run/secrets/database-password`
CREATE ROLE keygate LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION PASSWORD :'password';
CREATE DATABASE keygate OWNER keygate ENCODING 'UTF8' TEMPLATE template0;
REVOKE ALL ON DATABASE keygate FROM PUBLIC;
SQL
