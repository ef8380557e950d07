//! Heads as clients and origins send them.

use cutover::http1::HeadLimits;

pub const LIMITS: HeadLimits = HeadLimits {
    bytes: 32 * 1024,
    fields: 100,
    target: 8 * 1024,
    underscores: false,
};

pub const PLAIN: &[u8] =
    b"GET /api/v1/products?page=2 HTTP/1.1\r\nHost: shop.example.com\r\nUser-Agent: oha/1.4.5\r\n\
    Accept: */*\r\nAccept-Encoding: gzip, br\r\n\r\n";

pub const BROWSER: &[u8] = b"GET /assets/app.3f2a.js HTTP/1.1\r\nHost: shop.example.com\r\nConnection: keep-alive\r\n\
    sec-ch-ua: \"Chromium\";v=\"140\", \"Not=A?Brand\";v=\"24\"\r\nsec-ch-ua-mobile: ?0\r\nsec-ch-ua-platform: \"Linux\"\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
    Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n\
    Referer: https://shop.example.com/\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-GB,en;q=0.9\r\n\
    Cookie: uid=4f7c2a9e-1f1b-4d38-9b0e-6a7b8c9d0e1f; session=abcdefghijklmnopqrstuvwxyz0123456789; theme=dark\r\n\r\n";

pub const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Sat, 21 Nov 2026 03:00:00 GMT\r\nContent-Type: text/plain\r\n\
    Content-Length: 1024\r\nConnection: keep-alive\r\n\r\n";
