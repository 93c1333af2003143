//! A client in Rust: publishes, subscribes and comes back after a break, verifies deliveries. See docs/clients.md.
//! Crates: base64, hmac, serde_json, sha2, subtle, tungstenite.

use std::error::Error;
use std::io::Read as _;
use std::time::{Duration, SystemTime};
use std::{env, process, thread};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hmac::Mac as _;
use serde_json::{Value, json};
use subtle::ConstantTimeEq as _;

type Outcome = Result<(), Box<dyn Error>>;

fn url() -> Result<String, env::VarError> {
    Ok(format!("{}/ws", env::var("EVENT_HANDLER")?.replacen("http", "ws", 1)))
}

fn publish() -> Outcome {
    let (mut ws, _) = tungstenite::connect(url()?)?;
    let event = json!({"id": 1, "action": "publish", "event_name": "user.created", "source": "shop",
        "payload": {"user_id": "123"}, "idempotency_key": "order-4711"});
    ws.send(event.to_string().into())?;
    let reply: Value = serde_json::from_str(ws.read()?.to_text()?)?;
    println!("{reply}");
    if reply["type"] == "error" { Err("it is refused".into()) } else { Ok(()) }
}

/// Returns when the connection ends; `position` is where to go on.
fn follow(position: &mut Value) -> Outcome {
    let (mut ws, _) = tungstenite::connect(url()?)?;
    let mut wish = json!({"id": 1, "action": "subscribe", "event_name": "user.*", "envelope": "full"});
    for key in ["after", "log_id"].into_iter().filter(|key| !position[*key].is_null()) {
        wish[key] = position[key].clone();
    }
    ws.send(wish.to_string().into())?;
    loop {
        let text = match ws.read()? {
            tungstenite::Message::Text(text) => text,
            tungstenite::Message::Close(Some(end)) if (4000..4100).contains(&u16::from(end.code)) => {
                eprintln!("to connect again would end the same: {end}");
                process::exit(1);
            }
            _ => continue,
        };
        let message: Value = serde_json::from_str(&text)?;
        match message["type"].as_str() {
            Some("subscribed") => position["log_id"] = message["log_id"].clone(),
            Some("event") => {
                println!(
                    "{} {} {}",
                    message["id"],
                    message["event_name"].as_str().unwrap_or_default(),
                    message["payload"]
                );
                position["after"] = message["id"].clone();
            }
            _ => {}
        }
    }
}

fn subscribe() -> ! {
    let mut position = json!({"after": "earliest"});
    loop {
        if let Err(error) = follow(&mut position) {
            eprintln!("{error}");
        }
        thread::sleep(Duration::from_millis(500));
    }
}

fn is_signed(secret: &str, [identity, sent_at, signatures]: [&str; 3], body: &[u8]) -> Result<bool, Box<dyn Error>> {
    let key = BASE64_STANDARD.decode(secret.trim_start_matches("whsec_"))?;
    let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(&key)?;
    mac.update(format!("{identity}.{sent_at}.").as_bytes());
    mac.update(body);
    let expected = format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let is_recent = now.abs_diff(sent_at.parse()?) <= 300;
    Ok(is_recent && signatures.split(' ').any(|given| given.as_bytes().ct_eq(expected.as_bytes()).into()))
}

fn verify(headers: &[String]) -> Outcome {
    let [identity, sent_at, signatures] = headers else { return Err("three headers are needed".into()) };
    let mut body = Vec::new();
    std::io::stdin().read_to_end(&mut body)?;
    match is_signed(&env::var("SECRET")?, [identity, sent_at, signatures], &body)? {
        true => Ok(()),
        false => Err("not signed".into()),
    }
}

fn main() -> Outcome {
    let args: Vec<String> = env::args().skip(1).collect();
    match args.split_first() {
        Some((command, [])) if command == "publish" => publish(),
        Some((command, [])) if command == "subscribe" => subscribe(),
        Some((command, headers)) if command == "verify" => verify(headers),
        _ => Err("publish, subscribe, or verify ID TIMESTAMP SIGNATURES".into()),
    }
}
