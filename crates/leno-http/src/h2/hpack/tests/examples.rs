//! RFC 7541 appendix C, each byte and each state of the table.

use super::*;

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn lines(fields: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) -> Vec<String> {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    fields.into_iter().map(|(name, value)| format!("{}: {}", text(name), text(value))).collect()
}

fn table(decoder: &Decoder) -> Vec<String> {
    lines((0..).map_while(|n| decoder.table.get(n)).map(|field| (field.text.to_vec(), field.value.to_vec())))
}

/// Decodes a block and compares its fields and the table after it.
fn check(decoder: &mut Decoder, hex: &str, fields: &[&str], entries: &[&str]) {
    let decoded = decode(decoder, &bytes(hex)).unwrap();
    assert!(decoded.iter().all(|(name, text, _)| *name == Name::of(text)));
    assert_eq!(lines(decoded.into_iter().map(|(_, name, value)| (name, value))), fields);
    assert_eq!(table(decoder), entries);
}

#[test]
fn c2_representations() {
    let custom = ["custom-key: custom-header"];
    let new = || Decoder::new(4096);
    check(&mut new(), "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572", &custom, &custom);
    check(&mut new(), "040c 2f73 616d 706c 652f 7061 7468", &[":path: /sample/path"], &[]);
    check(&mut new(), "1008 7061 7373 776f 7264 0673 6563 7265 74", &["password: secret"], &[]);
    check(&mut new(), "82", &[":method: GET"], &[]);
}

#[test]
fn c3_and_c4_requests() {
    let plain = [
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "8286 84be 5808 6e6f 2d63 6163 6865",
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
    ];
    let coded = [
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        "8286 84be 5886 a8eb 1064 9cbf",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
    ];
    for [first, second, third] in [plain, coded] {
        let mut decoder = Decoder::new(4096);
        let get = ":method: GET";
        let authority = ":authority: www.example.com";
        check(&mut decoder, first, &[get, ":scheme: http", ":path: /", authority], &[authority]);
        let no_cache = "cache-control: no-cache";
        let fields = [get, ":scheme: http", ":path: /", authority, no_cache];
        check(&mut decoder, second, &fields, &[no_cache, authority]);
        let custom = "custom-key: custom-value";
        let fields = [get, ":scheme: https", ":path: /index.html", authority, custom];
        check(&mut decoder, third, &fields, &[custom, no_cache, authority]);
    }
}

#[test]
fn c5_and_c6_responses_with_eviction() {
    let plain = [
        "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120 474d \
         546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "4803 3330 37c1 c0bf",
        "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738 666f \
         6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b \
         2076 6572 7369 6f6e 3d31",
    ];
    let coded = [
        "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 \
         8f0b 97c8 e9ae 82ae 43d3",
        "4883 640e ffc1 c0bf",
        "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335 \
         dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
    ];
    for [first, second, third] in [plain, coded] {
        let mut decoder = Decoder::new(256);
        let (private, location) = ("cache-control: private", "location: https://www.example.com");
        let (early, late) = ("date: Mon, 21 Oct 2013 20:13:21 GMT", "date: Mon, 21 Oct 2013 20:13:22 GMT");
        let entries = [location, early, private, ":status: 302"];
        check(&mut decoder, first, &[":status: 302", private, early, location], &entries);
        let entries = [":status: 307", location, early, private];
        check(&mut decoder, second, &[":status: 307", private, early, location], &entries);
        let gzip = "content-encoding: gzip";
        let cookie = "set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1";
        let fields = [":status: 200", private, late, location, gzip, cookie];
        check(&mut decoder, third, &fields, &[cookie, gzip, late]);
    }
}
