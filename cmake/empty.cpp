// Stands in where a target has no sources yet.
