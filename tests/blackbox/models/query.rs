//! A query that names a model is refused, and every other query passes unchanged.

use std::fmt::Write as _;

use crate::support::chat::{CHAT, passed};
use crate::support::client::Call;
use crate::support::stand::Stand;
use crate::support::token::Key;
use crate::support::{Cases, is_error};

#[test]
fn a_query_that_names_a_model_is_ambiguous_and_every_other_passes_unchanged() {
    let stand = Stand::new();
    let mut cases = Cases::new();
    let ask = |key: &Key, query: &str| {
        let target = format!("{CHAT}?{query}");
        stand
            .gateway
            .ask(&Call::json(&target, &key.token, r#"{"model":"good"}"#))
    };
    for query in [
        "model=bad",
        "model=good",
        "model=",
        "model",
        "Model=bad",
        "MODEL=bad",
        "m%6fdel=bad",
        "m%6Fdel=bad",
        "%6d%6f%64%65%6c=bad",
        "M%4fDEL=bad",
        "a&model=bad",
        "a=1&model=bad",
        "a;model=bad",
        "a=1;model=bad",
        "model[]=bad",
        "Model[]=bad",
        "model%5b%5d=bad",
        "model%5B%5D",
        "&model=x",
        "&&model=x",
        ";model",
        "a=b&c=d;e=f&model=x&g",
        "x=%26&model=x",
    ] {
        for key in [&stand.all, &stand.only] {
            let response = ask(key, query);
            cases.check(
                &format!("{query} as {}", key.id),
                is_error(&response, 400, "ambiguous_model"),
            );
        }
    }
    let mut many = String::new();
    for at in 0..700 {
        let _ = write!(many, "p{at}&");
    }
    let response = ask(&stand.only, &format!("{many}model=bad"));
    cases.check(
        "behind 700 others",
        is_error(&response, 400, "ambiguous_model"),
    );
    cases.check("upstream", stand.up.untouched());
    for query in [
        "",
        "stream=true",
        "x=model",
        "x=model=bad",
        "models=bad",
        "model_=x",
        "xmodel=1",
        "model%20=x",
        "+model=x",
        "model.x=1",
        "model[0]=x",
        "model%00=x",
        "m%256fdel=bad",
        "x=%26model=bad",
        "x%3Dmodel=bad",
        "%zz=%",
        "a=%ff",
        "&&;;==",
        "model%5b%5d%5b%5d=x",
    ] {
        let response = ask(&stand.only, query);
        let target = format!("{CHAT}?{query}");
        cases.check(
            query,
            passed(&response).and_then(|()| {
                let seen = stand.up.last();
                (seen.target == target)
                    .then_some(())
                    .ok_or(format!("the upstream saw {}", seen.target))
            }),
        );
    }
    cases.done();
}

#[test]
fn ten_thousand_parameters_before_the_model_do_not_hide_it() {
    let stand = Stand::new();
    let target = format!("{CHAT}?{}model=bad", "a&".repeat(10_001));
    let response = stand.gateway.ask(&Call::json(
        &target,
        &stand.only.token,
        r#"{"model":"good"}"#,
    ));
    assert!(matches!(response.status, 400 | 414), "{}", response.status);
    stand.up.untouched().expect("nothing is forwarded");
}
