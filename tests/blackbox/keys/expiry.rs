//! A key is valid before the instant of its expiry, and refused from then on.

use crate::support::assert_error;
use crate::support::client::Call;
use crate::support::stand::Stand;
use crate::support::token::{Key, seconds_from_now};

#[test]
fn a_key_is_refused_from_the_instant_of_its_expiry_on() {
    let expired = Key::all("key_expired").expires("2020-01-01T00:00:00Z");
    let lasting = Key::all("key_lasting").expires("9999-12-30T00:00:00Z");
    let in_a_zone = Key::all("key_zone").expires("2020-01-01T00:00:00+02:00");
    let soon = Key::all("key_soon").expires(&seconds_from_now(2));
    let stand = Stand::with(|setup| setup.keys(&[&expired, &lasting, &in_a_zone, &soon]));
    let gateway = &stand.gateway;
    assert_eq!(gateway.ask(&Call::chat(&lasting.token, "good")).status, 200);
    assert_error(
        &gateway.ask(&Call::chat(&expired.token, "good")),
        401,
        "expired_api_key",
    );
    assert_error(
        &gateway.ask(&Call::chat(&in_a_zone.token, "good")),
        401,
        "expired_api_key",
    );
    // On one kept connection: what was true for the last request says nothing about the next.
    let mut client = gateway.client();
    let first = client.ask(&Call::chat(&soon.token, "good"));
    assert!(first.status == 200 || first.status == 401);
    let response = crate::support::eventually("the key expires", crate::support::DEADLINE, || {
        let response = gateway.ask(&Call::chat(&soon.token, "good"));
        (response.status != 200).then_some(response)
    });
    assert_error(&response, 401, "expired_api_key");
}

#[test]
fn the_last_second_that_rfc_3339_can_write_is_an_expiry() {
    let forever = Key::all("key_forever").expires("9999-12-31T23:59:59Z");
    let stand = Stand::with(|setup| setup.keys(&[&forever]));
    let shown = stand
        .gateway
        .ask(&Call::get("/v1/key", &forever.token))
        .json();
    assert_eq!(shown["expires_at"], "9999-12-31T23:59:59Z");
}
