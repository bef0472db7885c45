//! temp
fn main() {
    let file = std::env::args().nth(3).unwrap_or_default();
    let overrides = keygate::store::config::parse::Overrides::default();
    let config = keygate::store::config::parse::load(std::path::Path::new(&file), &overrides);
    match config {
        Ok(config) => {
            let r = keygate::cli::serve::serve(config, std::sync::Arc::new(|| Err(vec![])));
            if let Err(e) = r {
                eprintln!("{e:?}");
            }
        }
        Err(f) => {
            for x in f {
                eprintln!("{x}");
            }
        }
    }
}
