"""What schemathesis has to know besides the document; found by it through $SCHEMATHESIS_HOOKS."""

import os
import re
import unicodedata
import uuid

import schemathesis


@schemathesis.hook
def before_call(context, case, kwargs):
    """No schema can say that a key's end must lie ahead, at which revision it is, that a range must not be long, or what the
    admin token is."""
    if case.path == "/api/usage" and case.meta and case.meta.generation.mode.is_positive:
        case.query |= {"start_time": "1800000000", "end_time": "1800086400", "bucket_width": "1d"}
        case.query.pop("page", None)
        if "limit" in case.query:
            case.query["limit"] = 1
    if case.path in ("/api/usage/records", "/api/audit") and case.meta and case.meta.generation.mode.is_positive:
        for name in ("start_time", "end_time"):
            if name in case.query:
                case.query[name] = "1800000000"
    if isinstance(case.body, dict) and case.body.keys() == {"token"} and isinstance(case.body["token"], str):
        case.body["token"] = os.environ["KEYGATE_ADMIN_TOKEN"]
    # A place in a list belongs to the order of that list.
    if case.query and "after" in case.query and ("sort" in case.query or "." in str(case.query["after"])):
        del case.query["after"]
    # Here the keys come from a file, and there is nobody to wait for.
    if case.query and re.fullmatch(r"\d+s", str(case.query.get("wait", ""))):
        del case.query["wait"]
    if case.headers and "If-Match" in case.headers:
        case.headers["If-Match"] = "*"
    # Each call is another change.
    if case.headers and "Idempotency-Key" in case.headers and case.meta and case.meta.generation.mode.is_positive:
        case.headers["Idempotency-Key"] = str(uuid.uuid4())
    # Nor that no two budgets have the same unit and period.
    if isinstance(case.body, dict) and isinstance(case.body.get("budgets"), list) and case.meta and case.meta.generation.mode.is_positive:
        budgets = [budget for budget in case.body["budgets"] if isinstance(budget, dict)]
        case.body["budgets"] = list({(str(one.get("unit")), str(one.get("per"))): one for one in budgets}.values())
    # Nor has a pattern of every language a name for the class of invisible characters.
    for name in ("name", "account"):
        if isinstance(case.body, dict) and isinstance(case.body.get(name), str):
            case.body[name] = "".join("x" if unicodedata.category(sign) == "Cf" else sign for sign in case.body[name])
    # The year is a leap year: 29 February stays a day.
    if isinstance(case.body, dict) and isinstance(case.body.get("expires_at"), str):
        case.body["expires_at"] = re.sub(r"^\d{4}(-\d\d-\d\d)", r"9004\1", case.body["expires_at"])
    # Nor what the account of a key allows: with a blank in it, the text is a label and never an account's id.
    if isinstance(case.body, dict) and isinstance(case.body.get("account"), str) and case.meta and case.meta.generation.mode.is_positive:
        case.body["account"] = ("of " + case.body["account"])[:100]
