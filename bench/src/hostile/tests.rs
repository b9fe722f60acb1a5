//! By the model's clock and with null crypto: the same numbers in every run.

use super::*;

/// A round trip passes the server twice.
const STALL: Duration = Duration::from_millis(2 * 5);

fn settings(attack: Attack, down: bool) -> Settings {
    Settings {
        attack,
        down,
        clock: Clock::Model,
        real_tls: false,
        handshakes: match attack {
            Attack::Handshakes => 60,
            _ => 5_000,
        },
        time: Duration::from_millis(150),
        ..Settings::default()
    }
}

/// The victim keeps 80 % of what it has beside a companion that does the same as it, and nobody's echo
/// stands still.
fn is_kept_in_check(attack: Attack) {
    for down in [false, true] {
        let fair = run(&settings(Attack::Companion, down)).expect("everybody connects");
        let under = run(&settings(attack, down)).expect("everybody connects");
        let share = under.victim / fair.victim;
        assert!(share >= 0.8, "{attack:?} leaves {share:.2} (down: {down})");
        assert!(under.echoes.len() > 100 && under.lost_echoes == 0);
        assert!(
            under.echo(100) <= STALL,
            "{attack:?}: {:?}",
            under.echo(100)
        );
    }
}

#[test]
fn a_client_that_repeats_a_datagram_takes_no_more_than_its_share() {
    is_kept_in_check(Attack::Replay);
}

#[test]
fn a_client_that_floods_its_tunnel_takes_no_more_than_its_share() {
    is_kept_in_check(Attack::Tunnel);
}

#[test]
fn noise_from_everywhere_takes_no_more_than_a_client() {
    is_kept_in_check(Attack::Noise);
}

#[test]
fn hosts_that_flood_one_client_do_not_starve_another() {
    is_kept_in_check(Attack::Hosts);
}

#[test]
fn first_packets_that_nobody_follows_up_do_not_stall_tunnels() {
    is_kept_in_check(Attack::Initials);
}

#[test]
fn clients_that_connect_again_and_again_do_not_stall_tunnels() {
    is_kept_in_check(Attack::Handshakes);
    let storm = run(&settings(Attack::Handshakes, false)).expect("everybody connects");
    assert!(
        storm.handshakes > 50.0,
        "and still get in: {}",
        storm.handshakes
    );
}

/// The victim keeps 90 % of what it has alone, up and down. Attackers who break no rule stay to the end.
fn is_hardly_noticed(attack: Attack, stays: bool) {
    for down in [false, true] {
        let alone = run(&settings(Attack::None, down)).expect("everybody connects");
        let under = run(&settings(attack, down)).expect("everybody connects");
        let share = under.victim / alone.victim;
        println!("{attack:?} (down: {down}) leaves {share:.3}");
        assert!(share >= 0.9, "{attack:?} leaves {share:.2} (down: {down})");
        assert!(
            under.echo(100) <= STALL,
            "{attack:?}: {:?}",
            under.echo(100)
        );
        if stays {
            let all = usize::from(SCRIPTED) + 2;
            assert_eq!(under.usage.connections, all, "the attackers are there");
        }
    }
}

#[test]
fn a_byte_a_second_on_each_stream_is_hardly_noticed() {
    is_hardly_noticed(Attack::Script("attack-slow-loris"), true);
}

#[test]
fn tunnels_without_end_are_hardly_noticed() {
    is_hardly_noticed(Attack::Script("attack-tunnels-without-end"), true);
}

#[test]
fn ten_thousand_address_requests_are_hardly_noticed() {
    is_hardly_noticed(Attack::Script("attack-address-requests"), false);
}

#[test]
fn those_who_never_read_are_hardly_noticed() {
    is_hardly_noticed(Attack::Script("attack-never-reads"), true);
}
