-- What the gateways' role may do where another role owns the tables and brings the schema forward by hand, with
-- `keygate database migrate`. Run it as the owner after each migration: psql --dbname keygate --file grants.sql
-- It may be run again and again. The role itself, once, as a superuser:
--
--   CREATE ROLE keygate_gateway LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD '…';
--   GRANT CONNECT ON DATABASE keygate TO keygate_gateway;

-- No CREATE: the role changes no schema.
GRANT USAGE ON SCHEMA public TO keygate_gateway;

GRANT SELECT ON schema_migrations TO keygate_gateway;
GRANT SELECT ON schema_compatibility TO keygate_gateway;

-- Usage.
GRANT SELECT, INSERT, DELETE ON usage_records TO keygate_gateway;
GRANT SELECT, INSERT, UPDATE, DELETE ON usage_sums TO keygate_gateway;
GRANT SELECT, INSERT, UPDATE ON key_uses TO keygate_gateway;
GRANT SELECT, INSERT, UPDATE, DELETE ON writers TO keygate_gateway;

-- Records of changes: no UPDATE. Old ones are deleted after [audit] keep.
GRANT SELECT, INSERT, DELETE ON audit TO keygate_gateway;

GRANT SELECT, INSERT, UPDATE, DELETE ON alerts TO keygate_gateway;
GRANT SELECT, INSERT, UPDATE ON budget_resets TO keygate_gateway;

-- Accounts and people.
GRANT SELECT, INSERT, UPDATE, DELETE ON accounts TO keygate_gateway;
GRANT SELECT, UPDATE ON revisions TO keygate_gateway;
GRANT SELECT, INSERT, UPDATE ON persons TO keygate_gateway;
GRANT SELECT, INSERT, UPDATE, DELETE ON members TO keygate_gateway;
GRANT SELECT, INSERT, UPDATE, DELETE ON invitations TO keygate_gateway;
GRANT SELECT, INSERT, UPDATE, DELETE ON sessions TO keygate_gateway;

-- Keys, and the gateways that share them.
GRANT SELECT, INSERT, UPDATE, DELETE ON keys TO keygate_gateway;
GRANT SELECT, INSERT, DELETE ON key_revisions TO keygate_gateway;
GRANT SELECT, INSERT, UPDATE, DELETE ON gateways TO keygate_gateway;

-- What the gateways share of limits and budgets.
GRANT SELECT, INSERT, UPDATE, DELETE ON limit_leases TO keygate_gateway;
