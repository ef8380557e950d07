//! What a valid file means: every form of a value comes out as the one that the rest of the program knows.

use std::net::SocketAddr;
use std::time::Duration;

use cutover::config::spec::{
    Balance, Bind, CohortKey, Condition, EndpointAddress, HostPattern, PathPattern, Pattern,
    Scheme, ServiceSpec, Share, Subject,
};
use cutover::index::VersionIx;

#[path = "support/configuration.rs"]
mod configuration;

use configuration::{parsed, shop};

/// A service with two versions and these lines.
#[track_caller]
fn service(lines: &str) -> ServiceSpec {
    parsed(&shop("", lines)).services.remove(0)
}

#[test]
fn forms_of_addresses() {
    let spec = parsed(
        "[listen]\na.bind = ':80'\nb.bind = '[::1]:81'\nc.bind = 'unix:/run/c.sock'\n[service.s]\nversions.v1 = ['a:1']\n",
    );
    let binds: Vec<&Bind> = spec.listeners.iter().map(|l| &l.bind).collect();
    let six: SocketAddr = "[::1]:81".parse().unwrap();
    assert_eq!(
        binds,
        [
            &Bind::Any(80),
            &Bind::Tcp(six),
            &Bind::Unix("/run/c.sock".into())
        ]
    );
    assert_eq!(spec.listeners[0].name, "a");
    let rules = parsed(
        "[listen]\na = { bind = ':80', merge_slashes = true, via = 'edge-1' }\nb = { bind = ':81', via = false }\n\
         [service.s]\nversions.v1 = ['a:1']\n",
    );
    let [a, b] = &rules.listeners[..] else {
        panic!("two listeners")
    };
    assert_eq!((a.merge_slashes, a.via.as_deref()), (true, Some("edge-1")));
    assert_eq!((b.merge_slashes, b.via.as_deref()), (false, None));
    let short = parsed("listen = ':80'\nservice.s.versions.v1 = ['a:1']\n");
    assert_eq!(short.listeners[0].via.as_deref(), Some("cutover"));
    assert_eq!(short.listeners[0].name, "default");
    assert!(short.listeners[0].h1 && short.listeners[0].h2);
    assert_eq!(short.admin, None);
}

#[test]
fn forms_of_admin() {
    let admin = |lines: &str| {
        parsed(&format!(
            "listen = ':80'\n{lines}\n[service.s]\nversions.v1 = ['a:1']\n"
        ))
        .admin
        .unwrap()
    };
    let local = Bind::Tcp("127.0.0.1:9900".parse().unwrap());
    let short = admin("admin = '127.0.0.1:9900'");
    assert_eq!(short.listen, std::slice::from_ref(&local));
    let both = admin("[admin]\nlisten = ['127.0.0.1:9900', 'unix:/run/a.sock']\ntoken_file = '/t'");
    assert_eq!(both.listen, [local, Bind::Unix("/run/a.sock".into())]);
    assert_eq!(both.token_file, Some("/t".into()));
}

#[test]
fn names_of_certificates_are_in_small_letters() {
    let spec = parsed(
        "[listen.tls]\nbind = ':443'\nprotocols = 'h2'\n[[listen.tls.cert]]\nsni = ['*.Shop.Example', 'Shop.example.']\n\
         cert = 'c'\nkey = 'k'\n[service.s]\nversions.v1 = ['a:1']\n",
    );
    let listener = &spec.listeners[0];
    assert_eq!(listener.certs[0].sni, ["*.shop.example", "shop.example"]);
    assert_eq!((listener.h1, listener.h2), (false, true));
}

#[test]
fn forms_of_hosts_and_paths() {
    let service = service(
        "hosts = ['Shop.Example', '*.shop.example', '[::1]', '127.0.0.1']\npaths = ['/login', '/v1/*', '/*']",
    );
    assert_eq!(
        service.hosts,
        [
            HostPattern::Exact("shop.example".into()),
            HostPattern::Suffix(".shop.example".into()),
            HostPattern::Exact("[::1]".into()),
            HostPattern::Exact("127.0.0.1".into()),
        ]
    );
    assert_eq!(
        service.paths,
        [
            PathPattern::Exact("/login".into()),
            PathPattern::Prefix("/v1".into()),
            PathPattern::Prefix(String::new()),
        ]
    );
}

#[test]
fn a_single_version_is_stable() {
    let spec = parsed("listen = ':80'\nservice.s.versions.only = ['a:1']\n");
    assert_eq!(spec.services[0].stable, VersionIx(0));
    assert!(spec.services[0].split.is_empty());
}

#[test]
fn shares_are_in_the_order_of_the_file() {
    let text = "listen = ':80'\n[service.s]\nstable = 'b'\nsplit = { c = '0.001%', a = '99.999%' }\n\
                versions = { a = ['a:1'], b = ['a:2'], c = ['a:3'] }\n";
    let service = parsed(text).services.remove(0);
    assert_eq!(service.stable, VersionIx(1));
    assert_eq!(
        service.split,
        [(VersionIx(2), Share(1)), (VersionIx(0), Share(99_999))]
    );
}

#[test]
fn conditions_and_their_patterns() {
    let service = service(
        "[[service.shop.match]]\nwhen = { header.X-Canary = 'always', path = ['/api/*', '/^/v[0-9]+$/'], ip = '10.0.0.0/8' }\n\
         to = 'v2'\nstrict = true\n[[service.shop.match]]\nwhen.cookie.Beta = ''\nto = 'v1'",
    );
    let exact = |value: &str| Pattern::Exact(value.into());
    let first = &service.rules[0];
    assert_eq!((first.to, first.strict), (Some(VersionIx(1)), true));
    assert_eq!(
        first.when[0].all[0],
        Condition {
            subject: Subject::Header("x-canary".into()),
            patterns: vec![exact("always")]
        }
    );
    assert_eq!(
        first.when[0].all[1].patterns[0],
        Pattern::Glob("/api/*".into())
    );
    assert!(
        matches!(&first.when[0].all[1].patterns[1], Pattern::Regex(r) if r.as_str() == "^/v[0-9]+$")
    );
    assert_eq!(
        first.when[0].all[2].patterns,
        [Pattern::Net("10.0.0.0/8".parse().unwrap())]
    );
    let second = &service.rules[1];
    assert_eq!((second.to, second.strict), (Some(VersionIx(0)), false));
    assert_eq!(
        second.when[0].all[0].subject,
        Subject::Cookie("Beta".into())
    );
    assert_eq!(second.when[0].all[0].patterns, [exact("")]);
}

#[test]
fn cohorts() {
    let cohort = service("cohort = { by = ['cookie:uid', 'header:X-User', 'query:u', 'ip'] }")
        .cohort
        .unwrap();
    assert_eq!(
        cohort.by,
        [
            CohortKey::Cookie("uid".into()),
            CohortKey::Header("x-user".into()),
            CohortKey::Query("u".into()),
            CohortKey::Ip
        ]
    );
    assert_eq!(cohort.salt, "shop");
    let cohort = service("cohort = { by = 'ip', salt = 's' }")
        .cohort
        .unwrap();
    assert_eq!(
        (cohort.by, cohort.salt.as_str()),
        (vec![CohortKey::Ip], "s")
    );
}

#[test]
fn endpoints_in_every_form() {
    let text = "listen = ':80'\nservice.s.versions.v1 = ['10.0.0.1:80 weight=7', 'https://App', 'h2c://[::1]:9', 'unix:/a.sock']\n";
    let version = parsed(text).services.remove(0).versions.remove(0);
    let found: Vec<_> = version
        .endpoints
        .into_iter()
        .map(|e| (e.scheme, e.address, e.weight))
        .collect();
    assert_eq!(
        found,
        [
            (
                Scheme::Http,
                EndpointAddress::Ip("10.0.0.1:80".parse().unwrap()),
                7
            ),
            (Scheme::Https, EndpointAddress::Name("app".into(), 443), 1),
            (
                Scheme::H2c,
                EndpointAddress::Ip("[::1]:9".parse().unwrap()),
                1
            ),
            (Scheme::Http, EndpointAddress::Unix("/a.sock".into()), 1),
        ]
    );
}

#[test]
fn a_service_says_more_than_the_defaults() {
    let text = "listen = ':80'\ndefaults.timeouts = { connect = '2s', total = '60s' }\n[service.s]\nversions.v1 = ['a:1']\n\
                timeouts = { idle = '1m30s', total = 'none' }\n";
    let timeouts = parsed(text).services.remove(0).timeouts;
    assert_eq!(timeouts.connect, Duration::from_secs(2));
    assert_eq!(timeouts.first_byte, Duration::from_secs(15));
    assert_eq!(timeouts.idle, Duration::from_secs(90));
    assert_eq!(timeouts.total, None);
}

#[test]
fn the_rest_of_a_service() {
    let service = service("balance = 'round_robin'\nlabels = { team = 'shop', env = 'prod' }");
    assert_eq!(service.balance, Balance::RoundRobin);
    let label = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(
        service.labels,
        [label("env", "prod"), label("team", "shop")]
    );
}

#[test]
fn routes_that_only_look_alike() {
    parsed(
        "listen = ':80'\n[service.a]\nhosts = 'a.example'\nversions.v1 = ['a:1']\n\
         [service.b]\nhosts = 'a.example'\npaths = ['/b', '/b/*']\nversions.v1 = ['a:1']\n\
         [service.c]\nhosts = '*.example'\nversions.v1 = { endpoints = ['a:1'], preview = 'x.example' }\n\
         [service.d]\npaths = '/b'\nversions.v1 = ['a:1']\n",
    );
}
