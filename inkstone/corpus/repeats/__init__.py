"""What stands in more than one document: equal and nearly equal documents, shared sentences, copied passages."""
