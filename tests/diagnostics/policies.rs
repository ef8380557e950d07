//! What is said of the keys that protect requests.

use super::refused;

#[test]
fn checks_of_no_known_form() {
    refused(
        r#"
listen = ":80"
[service.a]
paths = ["/a"]
versions = { v1 = ["a:1"] }
check = "ready"
[service.b]
paths = ["/b"]
versions = { v1 = ["a:1"] }
check = "http://b/up"
[service.c]
paths = ["/c"]
versions = { v1 = ["a:1"] }
check = "gprc"
[service.d]
paths = ["/d"]
versions = { v1 = ["a:1"] }
check = "/a b"
[service.e]
versions = { v1 = ["a:1"] }
check = true
"#,
        r#"
error: `ready` is not a check
 --> cutover.toml:5:9
  |
5 | check = "ready"
  |         ^^^^^^^ expected a path such as "/ready", or "tcp", "grpc" or "grpc:SERVICE"
  = help: did you mean "/ready"?

error: `http://b/up` is not a check
 --> cutover.toml:9:9
  |
9 | check = "http://b/up"
  |         ^^^^^^^^^^^^^ expected a path such as "/ready", or "tcp", "grpc" or "grpc:SERVICE"
  = help: the endpoints say where; the check only what: "/up"

error: `gprc` is not a check
  --> cutover.toml:13:9
   |
13 | check = "gprc"
   |         ^^^^^^ expected a path such as "/ready", or "tcp", "grpc" or "grpc:SERVICE"
   = help: did you mean `grpc`?

error: `/a b` is not a check
  --> cutover.toml:17:9
   |
17 | check = "/a b"
   |         ^^^^^^ expected a path without spaces, `#` and letters that are not ASCII
   = help: write them percent-encoded: a space is `%20`

error: `service.e.check` must be a path such as "/ready", or "tcp", "grpc" or "grpc:SERVICE"
  --> cutover.toml:20:9
   |
20 | check = true
   |         ^^^^ expected a path such as "/ready", or "tcp", "grpc" or "grpc:SERVICE", found a boolean
"#,
    );
}

#[test]
fn a_check_in_two_places() {
    refused(
        r#"
listen = ":80"
[service.shop]
stable = "v1"
versions = { v1 = ["a:1"], v2 = ["a:2"] }
check = "/ready"
[service.shop.health]
path = "/up"
interval = "1s"
"#,
        r#"
error: `service.shop.check` and `service.shop.health.path` say both what is checked
 --> cutover.toml:5:1
  |
5 | check = "/ready"
  | ^^^^^ the short form
 ::: cutover.toml:7:1
  |
7 | path = "/up"
  | ---- the long form
  = help: keep one of them: `check` is for services that need no other times
"#,
    );
}

#[test]
fn health_without_a_path() {
    refused(
        r#"
listen = ":80"
[service.shop]
stable = "v1"
versions = { v1 = ["a:1"], v2 = ["a:2"] }
[service.shop.health]
interval = "1s"
"#,
        r#"
error: `service.shop.health` has no `path`
 --> cutover.toml:5:15
  |
5 | [service.shop.health]
  |               ^^^^^^ what is asked?
  = help: write `path = "/ready"` in here, or `check = "/ready"` in the service
"#,
    );
}

#[test]
fn health_in_numbers() {
    refused(
        r#"
listen = ":80"
[service.shop]
stable = "v1"
versions = { v1 = ["a:1"], v2 = ["a:2"] }
[service.shop.health]
path = "tcp"
interval = "0s"
timeout = 1
rise = 0
fall = 5000
"#,
        r#"
error: `service.shop.health.interval` is too short
 --> cutover.toml:7:12
  |
7 | interval = "0s"
  |            ^^^^ expected at least 10ms

error: `service.shop.health.timeout` needs a unit
 --> cutover.toml:8:11
  |
8 | timeout = 1
  |           ^ expected a duration such as "30s", found a bare number
  = help: write "1s" for seconds, "1ms" for milliseconds

error: `service.shop.health.rise` is out of range
 --> cutover.toml:9:8
  |
9 | rise = 0
  |        ^ expected 1 to 1000

error: `service.shop.health.fall` is out of range
  --> cutover.toml:10:8
   |
10 | fall = 5000
   |        ^^^^ expected 1 to 1000
"#,
    );
}

#[test]
fn an_ejection_longer_than_the_longest() {
    refused(
        r#"
listen = ":80"
[service.shop]
stable = "v1"
versions = { v1 = ["a:1"], v2 = ["a:2"] }
[service.shop.outlier]
eject = "10m"
eject_max = "1m"
"#,
        r#"
error: `service.shop.outlier.eject` is longer than `eject_max`, which is 1m
 --> cutover.toml:6:9
  |
6 | eject = "10m"
  |         ^^^^^ the first ejection can't be longer than the longest
 ::: cutover.toml:7:13
  |
7 | eject_max = "1m"
  |             ---- `eject_max`
  = help: `eject` is the first one, each in a row is longer, up to `eject_max`
"#,
    );
}

#[test]
fn a_longest_ejection_below_the_default() {
    refused(
        r#"
listen = ":80"
[service.shop]
stable = "v1"
versions = { v1 = ["a:1"], v2 = ["a:2"] }
outlier = { eject_max = "10s" }
"#,
        r#"
error: `service.shop.outlier.eject_max` is shorter than `eject`, which is 30s
 --> cutover.toml:5:25
  |
5 | outlier = { eject_max = "10s" }
  |                         ^^^^^ the first ejection can't be longer than the longest
  = help: `eject` is the first one, each in a row is longer, up to `eject_max`
"#,
    );
}

#[test]
fn outliers_in_numbers() {
    refused(
        r#"
listen = ":80"
[service.shop]
stable = "v1"
versions = { v1 = ["a:1"], v2 = ["a:2"] }
[service.shop.outlier]
consecutive_5xx = "5"
success_rate_stdev = "1.9"
max_ejected = 50
panic = "33.33%"
interval = "0s"
"#,
        r#"
error: `service.shop.outlier.consecutive_5xx` must be a whole number, without quotes
 --> cutover.toml:6:19
  |
6 | consecutive_5xx = "5"
  |                   ^^^ expected a whole number, without quotes, found a string

error: `service.shop.outlier.success_rate_stdev` must be a number, without quotes
 --> cutover.toml:7:22
  |
7 | success_rate_stdev = "1.9"
  |                      ^^^^^ expected a number, without quotes, found a string

error: `service.shop.outlier.max_ejected` needs a unit
 --> cutover.toml:8:15
  |
8 | max_ejected = 50
  |               ^^ expected a share such as "5%", found a bare number
  = help: write "50%"

error: `service.shop.outlier.panic` is too fine
 --> cutover.toml:9:9
  |
9 | panic = "33.33%"
  |         ^^^^^^^^ expected steps of 0.1%

error: `service.shop.outlier.interval` is too short
  --> cutover.toml:10:12
   |
10 | interval = "0s"
   |            ^^^^ expected at least 1ms
"#,
    );
}

#[test]
fn a_deviation_out_of_range() {
    refused(
        r#"
listen = ":80"
[service.shop]
stable = "v1"
versions = { v1 = ["a:1"], v2 = ["a:2"] }
[service.shop.outlier]
success_rate_stdev = nan
consecutive_gateway = -1
"#,
        r#"
error: `service.shop.outlier.success_rate_stdev` is out of range
 --> cutover.toml:6:22
  |
6 | success_rate_stdev = nan
  |                      ^^^ expected 0 to 100

error: `service.shop.outlier.consecutive_gateway` is out of range
 --> cutover.toml:7:23
  |
7 | consecutive_gateway = -1
  |                       ^^ expected 0 to 1000000
"#,
    );
}

#[test]
fn limits_with_units() {
    refused(
        r#"
listen = ":80"
[service.shop]
stable = "v1"
versions = { v1 = ["a:1"], v2 = ["a:2"] }
[service.shop.limits]
connections = "20k"
request = 1000
pending = 1e3
"#,
        r#"
error: `service.shop.limits.connections` must be a whole number, without quotes
 --> cutover.toml:6:15
  |
6 | connections = "20k"
  |               ^^^^^ expected a whole number, without quotes, found a string

error: unknown key `request` in `service.shop.limits`
 --> cutover.toml:7:1
  |
7 | request = 1000
  | ^^^^^^^ not a key that is known here
  = help: did you mean `requests`?

error: `service.shop.limits.pending` must be a whole number, without quotes
 --> cutover.toml:8:11
  |
8 | pending = 1e3
  |           ^^^ expected a whole number, without quotes, found a number
"#,
    );
}

#[test]
fn retries_out_of_range() {
    refused(
        r#"
listen = ":80"
[service.shop]
stable = "v1"
versions = { v1 = ["a:1"], v2 = ["a:2"] }
[service.shop.retry]
tries = 0
budget = "120%"
body_bytes = "1GiB"
methods = "idempotant"
per_try = "0s"
"#,
        r#"
error: `service.shop.retry.tries` is out of range
 --> cutover.toml:6:9
  |
6 | tries = 0
  |         ^ expected 1 to 10

error: `120%` is not a share such as "5%"
 --> cutover.toml:7:10
  |
7 | budget = "120%"
  |          ^^^^^^ more than 100%

error: `service.shop.retry.body_bytes` is out of range
 --> cutover.toml:8:14
  |
8 | body_bytes = "1GiB"
  |              ^^^^^^ expected 0B to 16MiB

error: `idempotant` is not a value of `service.shop.retry.methods`
 --> cutover.toml:9:11
  |
9 | methods = "idempotant"
  |           ^^^^^^^^^^^^ expected "idempotent" or "all"
  = help: did you mean `idempotent`?

error: `service.shop.retry.per_try` is too short
  --> cutover.toml:10:11
   |
10 | per_try = "0s"
   |           ^^^^ expected at least 1ms
"#,
    );
}

#[test]
fn causes_of_no_retry() {
    refused(
        r#"
listen = ":80"
[service.shop]
stable = "v1"
versions = { v1 = ["a:1"], v2 = ["a:2"] }
[service.shop.retry]
on = ["conect", "404", "5xx", 503, "reset", "reset"]
"#,
        r#"
error: `conect` is not a value of `service.shop.retry.on`
 --> cutover.toml:6:7
  |
6 | on = ["conect", "404", "5xx", 503, "reset", "reset"]
  |       ^^^^^^^^ expected "connect", "reset", "timeout" or a status such as "503"
  = help: did you mean `connect`?

error: an answer with `404` is never tried again
 --> cutover.toml:6:17
  |
6 | on = ["conect", "404", "5xx", 503, "reset", "reset"]
  |                 ^^^^^ expected a status from 500 to 599
  = help: other answers say something about the request, not about the endpoint

error: `5xx` is not a value of `service.shop.retry.on`
 --> cutover.toml:6:24
  |
6 | on = ["conect", "404", "5xx", 503, "reset", "reset"]
  |                        ^^^^^ expected "connect", "reset", "timeout" or a status such as "503"
  = help: name each of them, such as "502", "503", "504"

error: `service.shop.retry.on` must be "connect", "reset", "timeout" or a status such as "503"
 --> cutover.toml:6:31
  |
6 | on = ["conect", "404", "5xx", 503, "reset", "reset"]
  |                               ^^^ expected "connect", "reset", "timeout" or a status such as "503", found an integer

error: `reset` stands twice in `service.shop.retry.on`
 --> cutover.toml:6:45
  |
6 | on = ["conect", "404", "5xx", 503, "reset", "reset"]
  |                                             ^^^^^^^ again here
 ::: cutover.toml:6:36
  |
6 | on = ["conect", "404", "5xx", 503, "reset", "reset"]
  |                                    ------- first here
"#,
    );
}

#[test]
fn sessions_that_end_before_they_are_idle() {
    refused(
        r#"
listen = ":80"
[service.shop]
stable = "v1"
versions = { v1 = ["a:1"], v2 = ["a:2"] }
[service.shop.sticky]
cookie = "my cookie"
to = "versions"
idle = "2h"
max_life = "1h"
"#,
        r#"
error: `my cookie` can't be the name of a cookie
 --> cutover.toml:6:10
  |
6 | cookie = "my cookie"
  |          ^^^^^^^^^^^ expected letters, digits, `-` and `_`

error: `versions` is not a value of `service.shop.sticky.to`
 --> cutover.toml:7:6
  |
7 | to = "versions"
  |      ^^^^^^^^^^ expected "endpoint" or "version"
  = help: did you mean `version`?

error: `service.shop.sticky.idle` is longer than `max_life`, which is 1h
 --> cutover.toml:8:8
  |
8 | idle = "2h"
  |        ^^^^ a session ends with its life, seen or not
 ::: cutover.toml:9:12
  |
9 | max_life = "1h"
  |            ---- `max_life`
"#,
    );
}

#[test]
fn finishing_sessions_without_sessions() {
    refused(
        r#"
listen = ":80"
[service.shop]
stable = "v1"
versions = { v1 = ["a:1"], v2 = ["a:2"] }
finish_sessions = "30m"
sticky = false
"#,
        r#"
error: `service.shop.finish_sessions` needs sticky sessions
 --> cutover.toml:5:1
  |
5 | finish_sessions = "30m"
  | ^^^^^^^^^^^^^^^ a session is known only by its cookie
 ::: cutover.toml:6:10
  |
6 | sticky = false
  |          ----- there are none here
  = help: take out one of the two
"#,
    );
}

#[test]
fn a_fallback_that_is_not_defined() {
    refused(
        r#"
listen = ":80"
[service.shop]
stable = "v1"
versions = { v1 = ["a:1"], v2 = ["a:2"] }
fallback = "v3"
shield = "yes"
finish_sessions = "0s"
"#,
        r#"
error: `service.shop.fallback` names version `v3`, which is not defined
 --> cutover.toml:5:12
  |
5 | fallback = "v3"
  |            ^^^^ not a version of this service
  = help: the versions are `v1`, `v2`

error: `service.shop.shield` must be true or false, without quotes
 --> cutover.toml:6:10
  |
6 | shield = "yes"
  |          ^^^^^ expected true or false, without quotes, found a string

error: `service.shop.finish_sessions` is too short
 --> cutover.toml:7:19
  |
7 | finish_sessions = "0s"
  |                   ^^^^ expected at least 1s
"#,
    );
}

#[test]
fn hashing_without_a_hash() {
    refused(
        r#"
listen = ":80"
[service.shop]
stable = "v1"
versions = { v1 = ["a:1"], v2 = ["a:2"] }
balance = "round_robin"
hash_by = ["cookie:uid"]
"#,
        r#"
error: `service.shop.hash_by` is only for `balance = "hash"`
 --> cutover.toml:6:1
  |
6 | hash_by = ["cookie:uid"]
  | ^^^^^^^ nothing is hashed here
 ::: cutover.toml:5:11
  |
5 | balance = "round_robin"
  |           ------------- endpoints are chosen this way
  = help: write `balance = "hash"`, or leave this out
"#,
    );
}

#[test]
fn a_hash_of_nothing_known() {
    refused(
        r#"
listen = ":80"
[service.shop]
stable = "v1"
versions = { v1 = ["a:1"], v2 = ["a:2"] }
balance = "hash"
hash_by = ["cookies:uid", "header:", "ip"]
"#,
        r#"
error: `cookies:uid` is not a value of `service.shop.hash_by`
 --> cutover.toml:6:12
  |
6 | hash_by = ["cookies:uid", "header:", "ip"]
  |            ^^^^^^^^^^^^^ expected "cookie:NAME", "header:NAME", "query:NAME" or "ip"
  = help: did you mean `cookie`?

error: `` is not the name of a header
 --> cutover.toml:6:35
  |
6 | hash_by = ["cookies:uid", "header:", "ip"]
  |                                   ^ expected letters, digits and `-`
"#,
    );
}

#[test]
fn a_way_to_balance_that_is_unknown() {
    refused(
        r#"
listen = ":80"
[service.shop]
stable = "v1"
versions = { v1 = ["a:1"], v2 = ["a:2"] }
balance = "least_conn"
hash_by = "ip"
"#,
        r#"
error: `least_conn` is not a value of `service.shop.balance`
 --> cutover.toml:5:11
  |
5 | balance = "least_conn"
  |           ^^^^^^^^^^^^ expected "least_request" or "round_robin" or "peak_ewma" or "hash" or "random"
  = help: did you mean `least_request`? of two endpoints, the one with fewer requests in flight
"#,
    );
}

#[test]
fn mistakes_in_defaults() {
    refused(
        r#"
listen = ":80"
[defaults.health]
check = "/ready"
[defaults.drain]
request = "30s"
[defaults.rety]
tries = 2
[service.shop]
versions = { v1 = { endpoints = ["a:1"], slow_start = 30 } }
"#,
        r#"
error: unknown key `check` in `defaults.health`
 --> cutover.toml:3:1
  |
3 | check = "/ready"
  | ^^^^^ not a key that is known here
  = help: the keys here are `path`, `interval`, `timeout`, `rise`, `fall`

error: unknown key `request` in `defaults.drain`
 --> cutover.toml:5:1
  |
5 | request = "30s"
  | ^^^^^^^ not a key that is known here
  = help: did you mean `requests`?

error: unknown key `rety` in `defaults`
 --> cutover.toml:6:11
  |
6 | [defaults.rety]
  |           ^^^^ not a key that is known here
  = help: did you mean `retry`?

error: `service.shop.versions.v1.slow_start` needs a unit
 --> cutover.toml:9:55
  |
9 | versions = { v1 = { endpoints = ["a:1"], slow_start = 30 } }
  |                                                       ^^ expected a duration such as "30s", found a bare number
  = help: write "30s" for seconds, "30ms" for milliseconds
"#,
    );
}
