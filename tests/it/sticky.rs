//! Sticky sessions through the real binary, with two workers.

use crate::support::origin::Origin;
use crate::support::proxy::{Proxy, serve};
use crate::support::until;
use crate::support::wire::Message;

const USERS: usize = 60;
const COOKIE: &str = "cutover";
const NULL: serde_json::Value = serde_json::Value::Null;

/// A browser that forgets everything but its cookie: each request comes on a connection of its own.
#[derive(Default)]
struct User {
    cookie: Option<String>,
}

impl User {
    fn get(&mut self, proxy: &Proxy) -> Message {
        let field = self.cookie.as_ref();
        let field = field.map_or(String::new(), |c| format!("cookie: other=1; {c}\r\n"));
        let request = format!("GET / HTTP/1.1\r\nhost: test\r\n{field}\r\n");
        let answer = proxy.client().ask(&request);
        assert_eq!(answer.status(), 200);
        if let Some(set) = answer.field("set-cookie") {
            let pair = set.split(';').next().expect("a name and a value");
            assert!(pair.starts_with(&format!("{COOKIE}=")), "{set}");
            self.cookie = Some(pair.to_owned());
        }
        answer
    }
}

fn users(proxy: &Proxy) -> (Vec<User>, Vec<String>) {
    let mut users: Vec<User> = (0..USERS).map(|_| User::default()).collect();
    let places = places(proxy, &mut users);
    assert!(users.iter().all(|u| u.cookie.is_some()));
    (users, places)
}

/// Who answers whom now.
fn places(proxy: &Proxy, users: &mut [User]) -> Vec<String> {
    users.iter_mut().map(|u| u.get(proxy).text()).collect()
}

/// So many origins that answer with the version's name and their number.
fn origins(version: &str, count: usize) -> Vec<Origin> {
    (0..count)
        .map(|n| Origin::named(&format!("{version}-{n}")))
        .collect()
}

fn list<'a>(origins: impl IntoIterator<Item = &'a Origin>) -> String {
    let all: Vec<_> = origins
        .into_iter()
        .map(|o| format!("\"{}\"", o.at()))
        .collect();
    all.join(", ")
}

fn file(service: &str, sticky: &str, blue: &str, green: &str) -> String {
    format!(
        "[service.app]\nbalance = \"round_robin\"\n{service}\n[service.app.sticky]\n{sticky}\n\
         [service.app.versions]\nblue = [{blue}]\ngreen = [{green}]\n"
    )
}

#[test]
fn nobody_moves_while_nothing_changes() {
    for (to, same) in [("version", 0), ("endpoint", 2)] {
        let (blue, green) = (origins("blue", 3), origins("green", 3));
        let proxy = serve(&file(
            "stable = \"blue\"\nsplit = { green = \"30%\" }",
            &format!("to = \"{to}\""),
            &list(&blue),
            &list(&green),
        ));
        let (mut all, first) = users(&proxy);
        let of_green = first.iter().filter(|p| p.starts_with("green")).count();
        assert!((17..=19).contains(&of_green), "{of_green} of 60 on green");
        // To a version: its name stays. To an endpoint: the number too.
        let key = |place: &String| match same {
            0 => place.split('-').next().expect("a name").to_owned(),
            _ => place.clone(),
        };
        let first: Vec<_> = first.iter().map(key).collect();
        for _ in 0..4 {
            for (user, place) in all.iter_mut().zip(&first) {
                let answer = user.get(&proxy);
                assert_eq!(&key(&answer.text()), place, "to = {to}");
                assert_eq!(answer.field("set-cookie"), None, "nothing to say");
            }
        }
    }
}

#[test]
fn sessions_finish_where_they_began() {
    let (blue, green) = (origins("blue", 2), origins("green", 2));
    let text = |stable: &str| {
        let service = format!("stable = \"{stable}\"\nfinish_sessions = \"30m\"");
        file(&service, "", &list(&blue), &list(&green))
    };
    let proxy = serve(&text("blue"));
    let (mut all, first) = users(&proxy);
    assert!(first.iter().all(|p| p.starts_with("blue")));
    proxy.edit(&text("green"));
    for _ in 0..3 {
        assert_eq!(places(&proxy, &mut all), first);
    }
    let (_, new) = users(&proxy);
    assert!(new.iter().all(|p| p.starts_with("green")), "{new:?}");
}

#[test]
fn sessions_follow_the_split_at_once_unless_they_may_finish() {
    let (blue, green) = (origins("blue", 2), origins("green", 2));
    let text = |stable: &str| {
        let service = format!("stable = \"{stable}\"");
        file(&service, "", &list(&blue), &list(&green))
    };
    let proxy = serve(&text("blue"));
    let (mut all, _) = users(&proxy);
    proxy.edit(&text("green"));
    let moved = places(&proxy, &mut all);
    assert!(moved.iter().all(|p| p.starts_with("green")), "{moved:?}");
    assert_eq!(places(&proxy, &mut all), moved, "and are sessions there");
}

#[test]
fn a_share_that_is_lowered_keeps_its_sessions() {
    let (blue, green) = (origins("blue", 1), origins("green", 1));
    let text = |share: &str| {
        let service = format!("stable = \"blue\"\nsplit = {{ green = \"{share}\" }}");
        file(&service, "to = \"version\"", &list(&blue), &list(&green))
    };
    let proxy = serve(&text("50%"));
    let (mut all, first) = users(&proxy);
    proxy.edit(&text("1%"));
    assert_eq!(places(&proxy, &mut all), first);
    proxy.edit(&text("0%"));
    let after = places(&proxy, &mut all);
    assert!(after.iter().all(|p| p == "blue-0"), "{after:?}");
}

#[test]
fn two_hundred_forged_cookies_are_replaced() {
    let (blue, green) = (origins("blue", 2), origins("green", 1));
    let other = origins("other", 1);
    let text = file("stable = \"blue\"", "", &list(&blue), &list(&green));
    let proxy = serve(&format!(
        "{text}[service.other]\nhosts = [\"other.test\"]\nstable = \"v1\"\nsticky = {{}}\n\
         versions = {{ v1 = [{}] }}\n",
        list(&other)
    ));
    let mut user = User::default();
    user.get(&proxy);
    let real = user.cookie.clone().expect("a cookie");
    let value = real.split_once('=').expect("a value").1.to_owned();
    let answer = proxy
        .client()
        .ask("GET / HTTP/1.1\r\nhost: other.test\r\n\r\n");
    let foreign = answer.field("set-cookie").expect("a cookie");
    let foreign = foreign
        .split(['=', ';'])
        .nth(1)
        .expect("a value")
        .to_owned();
    let mut forged = vec![
        foreign,
        String::new(),
        "=".to_owned(),
        value.to_ascii_uppercase(),
        value.to_ascii_lowercase(),
        value.chars().rev().collect(),
        format!("{value}A"),
        format!("A{value}"),
        value[..59].to_owned(),
        value[1..].to_owned(),
        "A".repeat(60),
        "_".repeat(60),
        "x".repeat(4000),
        "\u{e9}".repeat(30),
        value.replace(|c: char| c.is_ascii_alphabetic(), "+"),
    ];
    let mut rng = fastrand::Rng::with_seed(1);
    let letters: Vec<char> = ('a'..='z')
        .chain('A'..='Z')
        .chain(['-', '_', '!'])
        .collect();
    for at in (0..60).cycle() {
        let mut one: Vec<char> = value.chars().collect();
        let letter = letters[rng.usize(..letters.len())];
        if one[at] != letter {
            one[at] = letter;
            forged.push(one.into_iter().collect());
        }
        if forged.len() == 200 {
            break;
        }
    }
    for value in &forged {
        let mut user = User {
            cookie: Some(format!("{COOKIE}={value}")),
        };
        let answer = user.get(&proxy);
        assert!(answer.field("set-cookie").is_some(), "accepted: {value:?}");
        assert_eq!(user.get(&proxy).field("set-cookie"), None, "{value:?}");
    }
    user.cookie = Some(real);
    assert_eq!(user.get(&proxy).field("set-cookie"), None);
}

#[test]
fn the_cookie_is_for_nobody_else() {
    let origin = Origin::raw(
        "HTTP/1.1 200 OK\r\ncache-control: public, max-age=60\r\nset-cookie: own=1\r\ncontent-length: 2\r\n\r\nok",
    );
    let text = file(
        "stable = \"blue\"",
        "idle = \"10s\"",
        &list([&origin]),
        &list([&origin]),
    );
    let proxy = serve(&text);
    let answer = proxy.get("/");
    let cookies = answer.all("set-cookie");
    let ours: Vec<_> = cookies
        .iter()
        .filter(|c| c.starts_with("cutover="))
        .collect();
    let [ours] = ours[..] else {
        panic!("{cookies:?}")
    };
    assert!(cookies.contains(&"own=1".to_owned()), "{cookies:?}");
    let attributes: Vec<_> = ours.split("; ").skip(1).collect();
    assert_eq!(
        attributes,
        ["Path=/", "Max-Age=10", "HttpOnly", "SameSite=Lax"]
    );
    assert_eq!(answer.field("cache-control").as_deref(), Some("no-store"));
    let pair = ours.split(';').next().expect("a pair");
    let again = format!("GET / HTTP/1.1\r\nhost: test\r\ncookie: {pair}\r\n\r\n");
    let answer = proxy.client().ask(&again);
    assert_eq!(answer.all("set-cookie"), ["own=1"]);
    assert_eq!(
        answer.field("cache-control").as_deref(),
        Some("public, max-age=60")
    );
    // A tenth of `idle` later it is sealed again.
    until("a fresh cookie", || {
        (proxy.client().ask(&again).all("set-cookie").len() == 2).then_some(())
    });
}

#[test]
fn a_session_whose_endpoint_is_gone_moves_inside_its_version() {
    let (blue, green) = (origins("blue", 3), origins("green", 2));
    let text = |blue: &[Origin]| {
        let service = "stable = \"blue\"\nsplit = { green = \"50%\" }";
        file(service, "", &list(blue), &list(&green))
    };
    let proxy = serve(&text(&blue));
    let (mut all, first) = users(&proxy);
    assert!(first.contains(&"blue-2".to_owned()));
    proxy.edit(&text(&blue[..2]));
    let second = places(&proxy, &mut all);
    assert_moved_inside(&first, &second, "blue-2");
    assert_eq!(places(&proxy, &mut all), second, "and stays there");
    // One that dies without a word from the file.
    let mut blue = blue;
    drop(blue.remove(1));
    let third = places(&proxy, &mut all);
    assert_moved_inside(&second, &third, "blue-1");
    assert_eq!(places(&proxy, &mut all), third);
}

#[track_caller]
fn assert_moved_inside(before: &[String], after: &[String], gone: &str) {
    for (before, after) in before.iter().zip(after) {
        assert_ne!(after, gone);
        match before == gone {
            true => assert!(after.starts_with("blue"), "{before} -> {after}"),
            false => assert_eq!(before, after),
        }
    }
}

/// What `explain` says of this user's next request.
fn explained(proxy: &Proxy, cookie: Option<&str>) -> serde_json::Value {
    let field = format!("cookie: other=1; {}", cookie.unwrap_or("third=3"));
    let said = proxy.command(&["explain", "http://test/", "-H", &field, "--json"]);
    assert_eq!(said.code, 0, "{said:?}");
    serde_json::from_str(&said.stdout).expect("JSON")
}

#[track_caller]
fn assert_says(told: &serde_json::Value, what: &str) {
    let why = told["why"].to_string();
    assert!(why.contains(what), "no {what:?} in {why}");
}

#[test]
fn explain_follows_a_session_as_the_proxy_does() {
    let (blue, green) = (origins("blue", 2), origins("green", 2));
    let text = |service: &str| file(service, "to = \"endpoint\"", &list(&blue), &list(&green));
    let proxy = serve(&text("stable = \"blue\"\nsplit = { green = \"50%\" }"));
    let mut all: Vec<User> = (0..8).map(|_| User::default()).collect();
    let first = places(&proxy, &mut all);
    for (user, place) in all.iter().zip(&first) {
        let told = explained(&proxy, user.cookie.as_deref());
        let (version, number) = place.split_once('-').expect("a name and a number");
        let of_version = if version == "blue" { &blue } else { &green };
        let endpoint = of_version[number.parse::<usize>().expect("a number")].at();
        assert_eq!(told["version"], version);
        assert_eq!(told["session"]["version"], version);
        assert_eq!(told["session"]["endpoint"], *endpoint);
        assert_says(&told, "whatever the split says");
    }
    let told = explained(&proxy, None);
    assert_eq!((&told["session"], &told["version"]), (&NULL, &NULL));
    assert_says(&told, "no cookie `cutover`");
    let forged = all[0].cookie.clone().expect("a cookie").replace('=', "=x");
    assert_eq!(explained(&proxy, Some(&forged))["session"], NULL);
    assert_says(&explained(&proxy, Some(&forged)), "is no session");
    let on_green = first.iter().position(|p| p.starts_with("green"));
    let of_green = &all[on_green.expect("half of them")].cookie;
    // The split has moved away: it may finish, or not.
    proxy.edit(&text("stable = \"blue\"\nfinish_sessions = \"1h\""));
    let told = explained(&proxy, of_green.as_deref());
    assert_eq!(told["version"], "green");
    assert_says(&told, "finish_sessions");
    proxy.edit(&text("stable = \"blue\""));
    let told = explained(&proxy, of_green.as_deref());
    assert_eq!(
        (&told["session"], told["version"].as_str()),
        (&NULL, Some("blue"))
    );
    assert_says(&told, "a new session begins");
}
