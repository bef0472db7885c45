//! Many connections that are idle take little memory and hold up nobody.

use std::net::{IpAddr, Ipv4Addr};

use crate::support::client::{Call, Client};
use crate::support::process::{descriptors, resident, take_descriptors};
use crate::support::stand::Stand;
use crate::support::{DEADLINE, eventually};

/// Half of the gateway's or of this process's descriptors, whichever are fewer, but no more than these.
fn as_many_as_possible(wanted: usize) -> usize {
    let possible = (take_descriptors() / 2).min(wanted);
    if possible < wanted {
        eprintln!("the limit of open files allows {possible} connections instead of {wanted}");
    }
    possible
}

#[test]
fn ten_thousand_idle_connections_take_less_than_12_kilobytes_each_and_hold_up_nobody() {
    let count = as_many_as_possible(10_000);
    let stand = Stand::new();
    let pid = stand.gateway.process.pid();
    let call = Call::chat(&stand.all.token, "good");
    let before = resident(pid);
    let mut held: Vec<Client> = Vec::with_capacity(count);
    for at in 0..count {
        // From several addresses, since one has fewer ports than this.
        let source = IpAddr::V4(Ipv4Addr::new(
            127,
            0,
            1,
            u8::try_from(at % 8).expect("small") + 1,
        ));
        let mut client = Client::connect_from(source, stand.gateway.address);
        // Each has had an answer, and so held at one time all that a connection ever holds.
        client.send(&call.bytes());
        held.push(client);
        if at % 50 == 49 {
            for client in &mut held[at - 49..] {
                assert_eq!(client.answer_to("POST").status, 200);
            }
        }
    }
    let connections = stand.gateway.metric("keygate_connections");
    assert!(connections >= count as f64, "{connections} of {count}");
    let grown = resident(pid).saturating_sub(before);
    assert!(grown < count * 12_000, "{grown} bytes for {count}");
    assert_eq!(stand.gateway.ask(&call).status, 200);
    // All of them are still served.
    for client in held.iter_mut().step_by(97) {
        assert_eq!(client.ask(&call).status, 200);
    }
    drop(held);
    eventually("they are forgotten", DEADLINE * 2, || {
        (stand.gateway.metric("keygate_connections") == 0.0).then_some(())
    });
    eventually("their descriptors are given back", DEADLINE, || {
        (descriptors(pid) < 200).then_some(())
    });
}
