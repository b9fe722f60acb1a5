use super::*;

#[test]
fn a_status_says_whether_trying_again_makes_sense() {
    for (status, permanent) in [
        (400, true),
        (403, true),
        (404, true),
        (429, false),
        (501, true),
        (502, false),
        (503, false),
    ] {
        let (failure, given_up) = refused("https://vpn/", status, Some("masque; error=x"));
        assert_eq!(given_up, permanent, "{status}");
        assert_eq!(failure.code, Exit::Refused);
        assert!(failure.message.contains(&status.to_string()));
        assert!(failure.message.contains("error=x"));
    }
}
