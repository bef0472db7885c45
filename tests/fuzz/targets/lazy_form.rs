//! The laziest reading of a form that a parser could get away with: none may find another model in what is taken. It
//! knows one thing: what stands in a quoted filename behind the part's own name is a filename.

/// The contents of the parts that the laziest parser would take for the model: at a delimiter with any line ends,
/// with a folded disposition, with any way to write the name.
pub fn parts_that_name_a_model(body: &[u8]) -> Vec<String> {
    let text = format!("\n{}", String::from_utf8_lossy(body).replace("\r\n", "\n"));
    text.split("\n--XyZ")
        .filter_map(|part| {
            let (head, content) = part.split_once("\n\n")?;
            let head = head.to_lowercase().replace("\n ", "").replace("\n\t", "");
            let named = head.lines().any(|line| {
                let line = without_filename(line).replace(['"', '\\', ' ', '\t'], "");
                let alone = |at: usize, name: &str| {
                    let rest = &line[at + name.len()..];
                    line[..at].ends_with([';', ':']) && (rest.is_empty() || rest.starts_with(';'))
                };
                line.starts_with("content-disposition")
                    && line
                        .match_indices("name=model")
                        .any(|(at, name)| alone(at, name))
            });
            named.then(|| content.trim().to_owned())
        })
        .collect()
}

/// The line without a quoted filename that stands behind the part's own name, up to the first quote or backslash.
fn without_filename(line: &str) -> String {
    let Some((before, filename)) = line.split_once("filename=\"") else {
        return line.to_owned();
    };
    let own_name = before.split(';').nth(1).unwrap_or_default();
    match filename.find(['"', '\\']) {
        Some(end) if own_name.trim_start().starts_with("name=") => {
            format!("{before}{}", &filename[end..])
        }
        _ => line.to_owned(),
    }
}
